"""The training task: loss, optimiser, and what is measured on the way."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch

from experiments.molpcba.config import Config, known, to_dict
from experiments.molpcba.data import GraphLoader, MoleculeData
from experiments.molpcba.distributed import gather_rows, sum_over_processes, world_size
from experiments.molpcba.errors import UserError
from experiments.molpcba.evaluation import Metric
from experiments.molpcba.inner import InnerLoopMeter, ea_layers
from experiments.molpcba.models import build_network
from pyg_ea import auxiliary_loss, parameter_groups


class MoleculeTraining(L.LightningModule):
    r"""Multi-task classification with unknown labels, and EA's auxiliary losses:

    .. math::
        L = \mathrm{mean}_{\text{known labels}} \mathrm{BCE} + w_{\mathrm{readout}}
        L_{\mathrm{aux}} + w_{\mathrm{local}} \sum_{\text{layers}} L_{\mathrm{aux}}

    Every mean is over the batch of all processes, so that two processes with batches of 32 train
    like one with 64.

    Args:
        config: resolved.
        data: what is trained on; only its description is kept.
    """

    def __init__(self, config: Config, data: MoleculeData) -> None:
        super().__init__()
        self.config = config
        self.identity = {
            "data": data.name,
            "fingerprint": data.fingerprint,
            "task_names": list(data.task_names),
            "metric": data.metric,
            "config": to_dict(config),
        }
        sizes = data.graphs.node_ptr.diff()[data.splits["train"]]
        self.network = build_network(config, data.num_tasks, sizes)
        self.metric = Metric(data.metric, data.num_tasks)
        layers = ea_layers(self.network)
        self.has_ea_readout = "readout" in layers
        self.has_ea_convs = any(name.startswith("conv") for name in layers)
        self.meter = InnerLoopMeter(self.network)
        self.loss_sums: list[Tensor] = []
        self.gradient_norms: list[Tensor] = []
        self.outputs: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.scores: dict[str, float] = {}

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``[S, tasks]``."""
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
        """The loss of one batch."""
        logits = self(batch)
        known = ~batch.y.isnan()
        errors = masked_errors(logits, batch.y)
        counts = [known.sum()]
        terms = [errors.sum()]
        weights = [1.0]
        if self.has_ea_readout:
            self._add_auxiliary("readout", self.config.aux_weight, terms, counts, weights)
        if self.has_ea_convs:
            self._add_auxiliary("convs", self.config.local_aux_weight, terms, counts, weights)
        count = torch.stack([c.to(errors.dtype) for c in counts])
        total = sum_over_processes(count).clamp(min=1)
        sums = torch.stack(terms)
        self.loss_sums.append(torch.stack([sums.detach(), count]))
        self.meter.update()
        return (sums / total * sums.new_tensor(weights)).sum() * world_size()

    def _add_auxiliary(
        self,
        part: str,
        weight: float | None,
        terms: list[Tensor],
        counts: list[Tensor],
        weights: list[float],
    ) -> None:
        """Appends the auxiliary loss of ``network.part``, summed over its segments."""
        module = getattr(self.network, part)
        layer = next(iter(ea_layers(module).values()))
        count = layer.solution.occupied.sum()
        terms.append(auxiliary_loss(module, self.config.aux_reading) * count)
        counts.append(count)
        weights.append(weight or 0.0)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stops the run when the gradient, and with it the loss, is no longer a number."""
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        if not norm.isfinite():
            raise UserError(
                f"the loss or its gradient is not finite in epoch {self.current_epoch}, step "
                f"{self.global_step}: lower --lr or --inner-lr, or set --gradient-clip 1 or "
                "--inner-clip 10; checkpoints of the epochs before are kept"
            )
        self.gradient_norms.append(norm)

    def configure_optimizers(self) -> Any:
        """Adam (with decoupled weight decay, 0 by default) and its schedule, step by step."""
        config = self.config
        rate = config.ea_lr
        groups = self.parameters() if rate is None else parameter_groups(self, rate)
        # One fused pass takes a third of the loop's time; Lightning's mixed precision does not clip
        # beside it.
        clips_mixed = config.precision == "bf16" and config.gradient_clip is not None
        optimizer = torch.optim.AdamW(
            groups,
            lr=known(config.lr),
            weight_decay=config.weight_decay,
            fused=not clips_mixed,
        )
        total = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            rising = min(1.0, (step + 1) / (config.warmup + 1))
            if config.schedule == "constant":
                return rising
            progress = max(step - config.warmup, 0) / max(total - config.warmup, 1)
            return rising * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    # ---- evaluation

    def on_validation_epoch_start(self) -> None:
        """Forgets earlier outputs."""
        self.outputs = {}

    def validation_step(self, batch: Batch, step: int, dataloader_idx: int = 0) -> None:
        """Keeps logits and labels for the score of the whole part."""
        self._keep(scored_parts(self.config)[dataloader_idx], batch)

    def on_validation_epoch_end(self) -> None:
        """Scores the valid part, and the test part where its curve is wanted."""
        self.scores = {}
        for part in scored_parts(self.config):
            self.scores |= self._scores(part)

    def on_test_epoch_start(self) -> None:
        """Forgets earlier outputs."""
        self.outputs = {}

    def test_step(self, batch: Batch, step: int) -> None:
        """As in validation."""
        self._keep("test", batch)

    def on_test_epoch_end(self) -> None:
        """Scores the test part."""
        self.scores = self._scores("test")

    def _keep(self, part: str, batch: Batch) -> None:
        self.outputs.setdefault(part, []).append((self(batch).float(), batch.y))

    def _scores(self, part: str) -> dict[str, float]:
        tasks = len(self.identity["task_names"])
        empty = torch.zeros(0, tasks, device=self.device)
        outputs = self.outputs.pop(part, [])
        logits = gather_rows(torch.cat([empty, *[out for out, _ in outputs]]))
        labels = gather_rows(torch.cat([empty, *[y for _, y in outputs]]))
        if not logits.isfinite().all():
            raise UserError(
                f"the network's outputs on the {part} part are not finite: lower --lr or "
                "--inner-lr, or set --gradient-clip 1; checkpoints of the epochs before are kept"
            )
        known = (~labels.isnan()).sum()
        loss = masked_errors(logits, labels).sum() / known.clamp(min=1)
        score = self.metric(labels, logits)
        return {f"{part}_loss": float(loss), f"{part}_{self.metric.name}": score}

    # ---- records

    def epoch_row(self) -> dict[str, float]:
        """What is recorded of the epoch that just ended, and starts measuring anew."""
        sums = sum_over_processes(torch.stack(self.loss_sums).sum(dim=0))
        means = (sums[0] / sums[1].clamp(min=1)).tolist()
        row = {"lr": self.trainer.optimizers[0].param_groups[0]["lr"], "train_loss": means.pop(0)}
        if self.has_ea_readout:
            row["readout_aux"] = means.pop(0)
        if self.has_ea_convs:
            row["local_aux"] = means.pop(0)
        row["gradient_norm"] = float(torch.stack(self.gradient_norms).mean())
        row |= self.scores | self.meter.compute()
        self.loss_sums, self.gradient_norms = [], []
        return row

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts into the checkpoint what the network was built and trained for."""
        checkpoint["pyg_ea"] = self.identity


def scored_parts(config: Config) -> tuple[str, ...]:
    """The parts of the data that are scored after every epoch."""
    return ("valid", "test") if config.test_curve else ("valid",)


def masked_errors(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of each label, 0 where it is unknown: ``[S, tasks]``, float32 or wider."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    known = ~labels.isnan()
    target = labels.nan_to_num(0.0).to(wide)
    errors = F.binary_cross_entropy_with_logits(logits.to(wide), target, reduction="none")
    return torch.where(known, errors, 0.0)
