"""Report on the inner loop of each segment, and the warning of divergence."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pyg_ea.solver import Solution


class DivergenceWarning(UserWarning):
    """The inner loop of some segments diverged."""


@dataclass(frozen=True)
class Diagnostics:
    """Result of :meth:`pyg_ea.EAAggregation.diagnose`, segment by segment."""

    count: Tensor
    """``[S]``, number of elements."""
    energy_before: Tensor
    """``[S]``, energy at the start, y = 0."""
    energy_after: Tensor
    """``[S]``, energy at the result."""
    solution: Solution
    """Steps, gradients, convergence. ``diverged`` says whether values are not finite or the energy
    rose."""

    def __str__(self) -> str:
        """A summary over segments: medians, and how many converged or diverged."""
        size, solution = len(self.count), self.solution
        if not size:
            return "no segments"
        return (
            f"{size} segments of {float(self.count.float().mean()):.1f} elements on average: "
            f"{int(solution.converged.sum())} converged, {int(solution.diverged.sum())} diverged; "
            f"median steps {int(solution.steps.median())}, "
            f"gradient {float(solution.gradient_max.median()):.2e}, "
            f"energy {float(self.energy_before.median()):.4g} -> "
            f"{float(self.energy_after.median()):.4g}"
        )
