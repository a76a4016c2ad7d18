"""The training task: loss, optimiser, scores, and the measures of an epoch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from ogb.graphproppred import Evaluator
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn.aggr import EquilibriumAggregation

from experiments.common import UserError
from experiments.molpcba.config import Config, to_dict
from experiments.molpcba.data import GraphLoader, MoleculeData
from experiments.molpcba.model import MoleculeNetwork
from experiments.molpcba.parallel import gather, sum_over_processes, world_size
from pyg_ea import EAAggregation, L2Prior, auxiliary_loss, collect_solutions, parameter_groups

NOT_FINITE = (
    "lower --lr or --inner-lr, or set --gradient-clip 1 or --inner-clip 10; checkpoints of the "
    "epochs before are kept"
)

EVALUATORS = {"ap": "ogbg-molpcba", "rocauc": "ogbg-molhiv", "rmse": "ogbg-molesol"}
"""Metric -> the OGB data set whose evaluator computes it."""


class MoleculeTraining(L.LightningModule):
    r"""Several tasks with missing labels, and EA's auxiliary losses:

    .. math::
        L = \mathrm{mean}_{\text{labels}} \ell + w_{\mathrm{readout}} L_{\mathrm{aux}}
        + w_{\mathrm{local}} \sum_{\text{layers}} L_{\mathrm{aux}}

    with binary cross entropy or, for real-valued labels, the squared error in units of their
    variance as :math:`\ell`. Every mean is over the batch of all processes, so that two processes
    with batches of 32 train like one with 64. On a GPU, labels, outputs and measures stay there
    until the epoch has ended.
    """

    def __init__(self, config: Config, data: MoleculeData) -> None:
        super().__init__()
        self.config, self.data, self.graphs = config, data, data.graphs
        sizes = data.graphs.node_ptr.diff()[data.splits["train"]]
        self.network = MoleculeNetwork(config, len(data.task_names), sizes, data.metric == "rmse")
        if self.network.real:
            self.network.fit_scale(data.labels("train"))
        self.layers = ea_layers(self.network)
        self.measures: list[dict[str, Tensor]] = []  # of the epoch's steps, on the device
        self.outputs: defaultdict[str, list[Tensor]] = defaultdict(list)
        self.scores: dict[str, float] = {}

    # ---- training

    def training_step(self, batch: Batch, step: int) -> Tensor:
        """The loss of one batch: sums here, over counts in the batch of all processes."""
        with collect_solutions() as solutions:
            outputs = self.network(batch)
        errors = self.network.errors(outputs, batch.y)
        terms = {"train_loss": torch.stack([errors.sum(), batch.y.isfinite().sum()])}
        weights = [1.0]
        loops, config = inner_loops(self.layers), self.config
        convs = sum(name.startswith("conv") for name in self.layers)  # called before the readout
        for name, part, layer, weight in (
            ("readout_aux", solutions[convs:], "readout", config.aux_weight),
            ("local_aux", solutions[:convs], "conv0", config.local_aux_weight),
        ):
            if part:
                segments = loops[f"{layer}_gradient"][1]
                total = auxiliary_loss(part, config.aux_reading) * segments
                terms[name] = torch.stack([total, segments])
                weights.append(weight or 0.0)
        self.measures.append({name: pair.detach() for name, pair in (terms | loops).items()})
        sums, counts = torch.stack(list(terms.values())).T
        means = sums / sum_over_processes(counts.detach()).clamp(min=1)
        return world_size() * sum(w * mean for w, mean in zip(weights, means, strict=True))

    def on_train_epoch_start(self) -> None:
        """Starts each epoch from its own seed, so that a resumed run repeats it bit for bit."""
        seed = (self.config.seed * 100_003 + self.current_epoch) * 1_009 + self.global_rank
        torch.manual_seed(seed)
        self.measures.clear()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips the gradient."""
        norm = nn.utils.clip_grad_norm_(self.parameters(), self.config.gradient_clip or math.inf)
        self.measures[-1]["gradient_norm"] = torch.stack([norm, torch.ones_like(norm)])

    def configure_optimizers(self) -> Any:
        """Adam (with decoupled weight decay, 0 by default) and its schedule, step by step."""
        config = self.config
        groups, decay = self._parameter_groups(), config.weight_decay
        optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=decay, fused=True)
        total = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            rising = min(1.0, (step + 1) / (config.warmup + 1))
            if config.schedule != "cosine":
                return rising
            progress = max(step - config.warmup, 0) / max(total - config.warmup, 1)
            return rising * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """EA, PyG's included, has a learning rate of its own."""
        rate = self.config.ea_lr
        if self.layers:
            return parameter_groups(self, rate)
        layers = [m for m in self.modules() if isinstance(m, EquilibriumAggregation)]
        of_ea = {parameter for layer in layers for parameter in layer.parameters()}
        own, others = ([p for p in self.parameters() if (p in of_ea) == b] for b in (True, False))
        groups: list[dict[str, Any]] = [{"params": others}]
        return [*groups, {"params": own, "lr": rate or self.config.lr}] if own else groups

    # ---- data

    def _loader(self, part: str, shuffle: bool = False) -> GraphLoader:
        self.graphs = self.graphs.to(self.device)
        index, size, seed = self.data.splits[part], self.config.batch_size, self.config.seed
        place = self.trainer.global_rank, self.trainer.world_size, self.current_epoch
        return GraphLoader(self.graphs, index, size, shuffle, seed, *place)

    def train_dataloader(self) -> GraphLoader:
        """Batches in an order that seed and epoch fix."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> list[GraphLoader]:
        """Every molecule of the parts that are scored, once."""
        return [self._loader(part) for part in self.scored_parts]

    # ---- evaluation

    @property
    def scored_parts(self) -> tuple[str, ...]:
        """The parts of the data that are scored now."""
        if self.trainer.testing:
            return ("test",)
        return ("valid", "test") if self.config.test_curve else ("valid",)

    def validation_step(self, batch: Batch, step: int, dataloader_idx: int = 0) -> None:
        """Keeps the outputs for the score of the whole part."""
        self.outputs[self.scored_parts[dataloader_idx]].append(self.network(batch).float())

    def on_validation_epoch_end(self) -> None:
        """Loss and score of each part."""
        self.scores, metric = {}, self.data.metric
        for part in self.scored_parts:
            labels = self.data.labels(part)
            own = [labels[:0], *(batch.cpu() for batch in self.outputs.pop(part, ()))]
            outputs = torch.cat(gather(torch.cat(own)))
            if not outputs.isfinite().all():
                raise UserError(f"outputs on the {part} part are not finite: {NOT_FINITE}")
            errors = self.network.errors(outputs, labels).sum()
            self.scores[f"{part}_loss"] = float(errors / labels.isfinite().sum().clamp(min=1))
            self.scores[f"{part}_{metric}"] = score(metric, labels, outputs, self.data.scale)

    test_dataloader, test_step = val_dataloader, validation_step
    on_test_epoch_end = on_validation_epoch_end

    # ---- records

    @torch.no_grad()
    def epoch_row(self) -> dict[str, float]:
        """What is recorded of the epoch that just ended."""
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        row = {"lr": lr} | epoch_means(self.measures) | self.scores
        for name, layer in self.layers.items():
            row[f"{name}_gradient"] = row[f"{name}_gradient"] ** 0.5
            row[f"{name}_step_size"] = float(layer.solver.lr)
            row[f"{name}_momentum"] = float(layer.solver.momentum)
            if isinstance(layer.prior, L2Prior):
                row[f"{name}_regulariser"] = float(layer.prior.weight)
        return row

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the network was built and trained for."""
        checkpoint["pyg_ea"] = {
            "fingerprint": self.data.fingerprint,
            "task_names": list(self.data.task_names),
            "metric": self.data.metric,
            "units": self.data.units,
            "config": to_dict(self.config),
        }


# ---- scores and measures


def score(metric: str, labels: Tensor, outputs: Tensor, scale: Tensor | float = 1.0) -> float:
    """The mean score over tasks of ``outputs [G, tasks]``; ``labels`` are NaN where missing.

    ``scale`` is the unit of real values.
    """
    evaluator = Evaluator(EVALUATORS[metric])
    evaluator.num_tasks = labels.shape[1]  # OGB's evaluator counts the tasks of its own set
    pair = {"y_true": labels.double() * scale, "y_pred": outputs.double() * scale}
    return float(evaluator.eval(pair)[metric])


def chance(data: MoleculeData) -> float:
    """The test score of the best constant; a ``UserError`` where a part cannot be scored."""
    for part in data.splits:
        labels = data.labels(part)
        both = (labels == 1).any(dim=0) & (labels == 0).any(dim=0)
        if not (labels.isfinite().any(dim=0).all() if data.metric == "rmse" else both.any()):
            raise UserError(
                f"the {part} part ({len(labels)} molecules) cannot be scored: it needs a positive "
                "and a negative label of a task (regression: a label of each); try another --split"
            )
    labels = data.labels("test")
    best = labels.double().nanmean(dim=0).expand_as(labels)
    return score(data.metric, labels, best, data.scale)


def epoch_means(steps: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Means over steps and processes, by name, from the sum and the count ``[2]`` of each step."""
    own = torch.stack([torch.stack(list(step.values())) for step in steps])  # [steps, names, 2]
    sums, counts = torch.stack(gather(own.cpu().double().sum(dim=0))).sum(dim=0).T
    return dict(zip(steps[0], (sums / counts.clamp(min=1)).tolist(), strict=True))


def ea_layers(network: nn.Module) -> dict[str, EAAggregation]:
    """The EA layers by short name: ``readout``, ``conv0``, ``conv1``, ..."""
    layers = {}
    for path, module in network.named_modules():
        if isinstance(module, EAAggregation):
            part, number, *_ = path.split(".")
            layers[f"conv{number}" if part == "convs" else part] = module
    return layers


@torch.no_grad()
def inner_loops(layers: dict[str, EAAggregation]) -> dict[str, Tensor]:
    """What the inner loops just did, summed over segments, and the number of segments: ``[2]``.

    ``gradient`` is the mean square of the last inner step's gradient, ``steps`` the number of steps
    in which y moved; ``converged`` and ``diverged`` become shares of segments.
    """
    terms = {}
    for name, layer in layers.items():
        solution = layer.solution
        assert solution is not None
        measures = {"gradient": solution.gradient_mean_square, "steps": solution.steps}
        measures |= {"converged": solution.converged, "diverged": solution.diverged}
        occupied = solution.occupied.float()
        for key, value in measures.items():
            terms[f"{name}_{key}"] = torch.stack([value.float() @ occupied, occupied.sum()])
    return terms
