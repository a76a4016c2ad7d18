"""What the study can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from experiments.median.aggregators import AGGREGATORS


class UserError(Exception):
    """A mistake the user can act on; ``str(error)`` is one line, printed without a traceback."""


@dataclass(frozen=True)
class Config:
    """Settings of the study; the same for every method but for the learning rate.

    Args:
        methods: aggregators to compare.
        seeds: number of seeds; seed k fixes the weights and the sets of run k of every method.
        learning_rates: tried for each method, on one seed that is not among those reported.
        tuning_steps: training steps of each of these trials.
        steps: training steps of a reported run.
        batch_size: sets in a training step.
        embedding: size of an encoded element and of an aggregator's result.
        parameters: budget of the whole model; the encoder's and decoder's width follows from it.
        auxiliary_weight: weight of EA's auxiliary loss, 1e-4 in the paper (appendix D.2).
        test_sets: fresh sets of an evaluation, the same for every method and seed.
        evaluations: evaluations along a run, evenly spaced, the last one at its end.
        compiled: whether EA's inner gradient goes through torch.compile (needs a C++ compiler).
        results: folder of the records.
    """

    methods: list[str] = field(default_factory=lambda: list(AGGREGATORS))
    seeds: int = 3
    learning_rates: list[float] = field(default_factory=lambda: [1e-3, 3e-3, 1e-2, 3e-2])
    tuning_steps: int = 500
    steps: int = 4000
    batch_size: int = 16
    embedding: int = 16
    parameters: int = 5000
    auxiliary_weight: float = 1e-4
    test_sets: int = 2000
    evaluations: int = 10
    compiled: bool = False
    results: str = "results/median"

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in AGGREGATORS:
                choices = ", ".join(AGGREGATORS)
                raise UserError(f"methods: got {name!r}, expected some of {choices}")
        if not self.methods or not self.learning_rates:
            raise UserError("methods and learning_rates must each name at least one, got none")
        for name in ("seeds", "tuning_steps", "steps", "batch_size", "embedding", "test_sets"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: got {getattr(self, name)}, expected 1 or more")
        if not 1 <= self.evaluations <= min(self.steps, self.tuning_steps):
            raise UserError(
                f"evaluations: got {self.evaluations}, expected 1 to steps and tuning_steps "
                f"({min(self.steps, self.tuning_steps)})"
            )

    def shared(self) -> dict[str, object]:
        """What every run depends on beside its own method, seed, learning rate and length."""
        names = (
            "batch_size",
            "embedding",
            "parameters",
            "auxiliary_weight",
            "test_sets",
            "evaluations",
        )
        return {name: getattr(self, name) for name in names}
