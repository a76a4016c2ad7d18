"""The training task: loss, optimiser, scores."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch

from experiments.common import UserError
from experiments.molpcba.config import Config, require, to_dict
from experiments.molpcba.data import GraphLoader, MoleculeData
from experiments.molpcba.evaluation import InnerLoopMeter, Metric, solution_of
from experiments.molpcba.model import MoleculeNetwork
from experiments.molpcba.parallel import gather_rows, sum_over_processes, world_size
from pyg_ea import auxiliary_loss, parameter_groups

NOT_FINITE = (
    "lower --lr or --inner-lr, or set --gradient-clip 1 or --inner-clip 10; checkpoints of the "
    "epochs before are kept"
)


class MoleculeTraining(L.LightningModule):
    r"""Several tasks with missing labels, and EA's auxiliary losses:

    .. math::
        L = \mathrm{mean}_{\text{labels}} \ell + w_{\mathrm{readout}} L_{\mathrm{aux}}
        + w_{\mathrm{local}} \sum_{\text{layers}} L_{\mathrm{aux}}

    with binary cross entropy or, for real-valued labels, the squared error in units of their
    variance as :math:`\ell`. Every mean is over the batch of all processes, so that two processes
    with batches of 32 train like one with 64.

    Args:
        config: resolved.
        data: what is trained on.
    """

    def __init__(self, config: Config, data: MoleculeData) -> None:
        super().__init__()
        self.config, self.data, self.graphs = config, data, data.graphs
        train = data.splits["train"]
        sizes = data.graphs.node_ptr.diff()[train]
        self.metric = Metric(data.metric, data.num_tasks)
        self.is_real = data.metric == "rmse"
        self.network = MoleculeNetwork(config, data.num_tasks, sizes, self.is_real)
        if self.is_real:
            labels = data.graphs.labels(train)
            offset = labels.nanmean(dim=0)
            scale = (labels - offset).square().nanmean(dim=0).sqrt()
            self.network.offset.copy_(offset)
            self.network.scale.copy_(torch.where(scale > 0, scale, 1.0))
        self.meter = InnerLoopMeter(self.network)
        if config.compile:
            for layer in self.meter.layers.values():
                layer.compile()
        self.auxiliary = self._auxiliary_parts()
        self.loss_sums: list[Tensor] = []
        self.gradient_norms: list[Tensor] = []
        self.outputs: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.scores: dict[str, float] = {}

    def forward(self, batch: Batch) -> Tensor:
        """Outputs ``[S, tasks]``."""
        return self.network(batch)

    # ---- training

    def on_train_epoch_start(self) -> None:
        """Starts each epoch from its own seed, so that a resumed run repeats it bit for bit."""
        seed = (self.config.seed * 100_003 + self.current_epoch) * 1_009 + self.global_rank
        torch.manual_seed(seed)
        loader = self.trainer.train_dataloader
        assert isinstance(loader, GraphLoader)
        loader.set_epoch(self.current_epoch)  # its iteration has not begun yet

    def training_step(self, batch: Batch, step: int) -> Tensor:
        """The loss of one batch: sums here, over counts in the batch of all processes."""
        errors = self.errors(self(batch), batch.y)
        sums, counts, weights = [errors.sum()], [(~batch.y.isnan()).sum()], [1.0]
        for part, layer, weight in self.auxiliary:
            segments = solution_of(layer).occupied.sum()
            sums.append(auxiliary_loss(part, self.config.aux_reading) * segments)
            counts.append(segments)
            weights.append(weight)
        total = torch.stack(sums)
        count = torch.stack([c.to(total.dtype) for c in counts])
        everywhere = sum_over_processes(count).clamp(min=1)
        self.loss_sums.append(torch.stack([total.detach(), count]))
        self.meter.update()
        return (total / everywhere * total.new_tensor(weights)).sum() * world_size()

    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The error of each label, 0 where it is missing: ``[S, tasks]``, float32 or wider."""
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        target = labels.nan_to_num(0.0).to(outputs.dtype)
        if self.is_real:
            errors = ((outputs - target) / self.network.scale).square()
        else:
            errors = F.binary_cross_entropy_with_logits(outputs, target, reduction="none")
        return torch.where(labels.isnan(), 0.0, errors)

    def _auxiliary_parts(self) -> list[tuple[torch.nn.Module, Any, float]]:
        """Parts of the network with EA, a layer whose segments are counted, and their weight."""
        layers = self.meter.layers
        parts: list[tuple[torch.nn.Module, Any, float]] = []
        if "readout" in layers:
            weight = self.config.aux_weight or 0.0
            parts.append((self.network.readout, layers["readout"], weight))
        if "conv0" in layers:
            weight = self.config.local_aux_weight
            parts.append((self.network.convs, layers["conv0"], weight))
        return parts

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stops the run when the gradient, and with it the loss, is no longer a number."""
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if not norm.isfinite():
            raise UserError(
                f"the loss or its gradient is not finite in epoch {self.current_epoch}, step "
                f"{self.global_step}: {NOT_FINITE}"
            )
        self.gradient_norms.append(norm)

    def configure_optimizers(self) -> Any:
        """Adam (with decoupled weight decay, 0 by default) and its schedule, step by step."""
        config = self.config
        has_ea = bool(self.meter.layers)
        groups = parameter_groups(self, config.ea_lr) if has_ea else self.parameters()
        # One fused pass takes a third of the loop's time; Lightning's mixed precision does not clip
        # beside it.
        clips_mixed = config.precision == "bf16" and config.gradient_clip is not None
        optimizer = torch.optim.AdamW(
            groups,
            lr=require(config.lr),
            weight_decay=config.weight_decay,
            fused=not clips_mixed,
        )
        total = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            rising = min(1.0, (step + 1) / (config.warmup + 1))
            if config.schedule != "cosine":
                return rising
            progress = max(step - config.warmup, 0) / max(total - config.warmup, 1)
            return rising * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    # ---- data

    def _loader(self, part: str, shuffle: bool = False) -> GraphLoader:
        self.graphs = self.graphs.to(self.device)
        return GraphLoader(
            self.graphs,
            self.data.splits[part],
            require(self.config.batch_size),
            shuffle=shuffle,
            seed=self.config.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )

    def train_dataloader(self) -> GraphLoader:
        """Batches in an order that seed and epoch fix."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> list[GraphLoader]:
        """Every molecule of each part that is scored after an epoch once."""
        return [self._loader(part) for part in self.scored_parts]

    def test_dataloader(self) -> GraphLoader:
        """Every molecule of the test part once."""
        return self._loader("test")

    @property
    def scored_parts(self) -> tuple[str, ...]:
        """The parts of the data that are scored after every epoch."""
        return ("valid", "test") if self.config.test_curve else ("valid",)

    # ---- evaluation

    def on_validation_epoch_start(self) -> None:
        """Drops the outputs of an evaluation that was interrupted."""
        self.outputs = {}

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, step: int, dataloader_idx: int = 0) -> None:
        """Keeps outputs and labels for the score of the whole part."""
        self._keep(self.scored_parts[dataloader_idx], batch)

    def on_validation_epoch_end(self) -> None:
        """Scores the valid part, and the test part where its curve is recorded."""
        self.scores = {}
        for part in self.scored_parts:
            self.scores |= self._scores(part)
        self.log_dict(self.scores, logger=False)

    def test_step(self, batch: Batch, step: int) -> None:
        """As in validation."""
        self._keep("test", batch)

    def on_test_epoch_end(self) -> None:
        """Scores the test part."""
        self.scores = self._scores("test")

    def _keep(self, part: str, batch: Batch) -> None:
        self.outputs.setdefault(part, []).append((self(batch).float(), batch.y))

    def _scores(self, part: str) -> dict[str, float]:
        empty = torch.zeros(0, self.data.num_tasks, device=self.device)
        outputs = self.outputs.pop(part, [])
        values = gather_rows(torch.cat([empty, *[out for out, _ in outputs]]))
        labels = gather_rows(torch.cat([empty, *[y for _, y in outputs]]))
        if not values.isfinite().all():
            raise UserError(f"outputs on the {part} part are not finite: {NOT_FINITE}")
        count = (~labels.isnan()).sum().clamp(min=1)
        loss = self.errors(values.to(self.device), labels.to(self.device)).sum().cpu() / count
        score = self.metric(labels, values)
        return {f"{part}_loss": float(loss), f"{part}_{self.metric.name}": score}

    # ---- records

    def epoch_row(self) -> dict[str, float]:
        """What is recorded of the epoch that just ended; starts measuring again."""
        sums = sum_over_processes(torch.stack(self.loss_sums).sum(dim=0))
        means = (sums[0] / sums[1].clamp(min=1)).tolist()
        names = ["train_loss"]
        names += ["readout_aux" if p is self.network.readout else "local_aux"
                  for p, _, _ in self.auxiliary]  # fmt: skip
        row = {"lr": self.trainer.optimizers[0].param_groups[0]["lr"]}
        row |= dict(zip(names, means, strict=True))
        row["gradient_norm"] = float(torch.stack(self.gradient_norms).mean())
        row |= self.scores | self.meter.compute()
        self.loss_sums, self.gradient_norms = [], []
        return row

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the network was built and trained for."""
        checkpoint["pyg_ea"] = {
            "data": self.data.name,
            "fingerprint": self.data.fingerprint,
            "task_names": list(self.data.task_names),
            "metric": self.metric.name,
            "config": to_dict(self.config),
        }
