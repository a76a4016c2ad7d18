"""Report on the inner loop of each segment, and the warning of divergence."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


class DivergenceWarning(UserWarning):
    """The inner loop of some segments diverged."""


@dataclass(frozen=True)
class Diagnostics:
    """What the solver did, segment by segment (:meth:`EAAggregation.diagnose`); each ``[S]``."""

    count: Tensor
    """Number of elements."""
    steps: Tensor
    """Steps in which y moved."""
    gradient_max: Tensor
    """Largest absolute entry of the last step's gradient, taken at the look-ahead point."""
    energy_before: Tensor
    """Energy at the start, y = 0."""
    energy_after: Tensor
    """Energy at the result."""
    converged: Tensor
    """Whether ``gradient_max`` is below ``gtol``."""
    diverged: Tensor
    """Whether values are not finite or the energy rose."""

    def __str__(self) -> str:
        """A summary over segments: medians, and how many converged or diverged."""
        if not len(self.count):
            return "no segments"
        size = len(self.count)
        return (
            f"{size} segments of {float(self.count.float().mean()):.1f} elements on average: "
            f"{int(self.converged.sum())} converged, {int(self.diverged.sum())} diverged; median "
            f"steps {int(self.steps.median())}, gradient {float(self.gradient_max.median()):.2e}, "
            f"energy {float(self.energy_before.median()):.4g} -> "
            f"{float(self.energy_after.median()):.4g}"
        )
