"""Node classification on block-model graphs: aggregators over neighbours, outliers at test.

``python -m experiments.nodes``: see ``--help``. A seed decides a graph of 2,000 nodes in 4 classes.
A node has edges to 6 nodes of its class and to 4 others on average. Its features are the centre of
its class and noise, too much to tell the class without the neighbours.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv, aggr
from torch_geometric.nn.aggr import Aggregation

from experiments.common import UserError, command, revision, sha256
from experiments.sets.study import TUNING_SEED
from experiments.sets.training import count_parameters
from experiments.studies.engine import Grid, Tuning, run_study
from experiments.studies.records import LAST, Outcome, Run
from pyg_ea import EAAggregation, SumEAAggregation

NODES, CLASSES, FEATURES = 2000, 4, 16
NOISE = 4.0  # standard deviation around a class's centre; those of centres have 1
DEGREES = 6.0, 4.0  # neighbours of a node's own class and of others
SPLIT = 400, 400  # nodes of the train and the valid part; the rest are the test part
OUTLIERS = 0.1, 0.2, 0.3  # shares of nodes whose features become noise of this deviation:
OUTLIER_NOISE = 10.0
NOT_OF_A_RUN = ("methods", "seeds", "norms", "learning_rates", "jobs", "results")
STEPS = 5  # of EA


def _deep_sets(width: int) -> Aggregation:
    mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    return aggr.DeepSetsAggregation(mlp)


AGGREGATORS: dict[str, Callable[[int], Aggregation]] = {
    "sum": lambda width: aggr.SumAggregation(),
    "mean": lambda width: aggr.MeanAggregation(),
    "median": lambda width: aggr.MedianAggregation(),
    "attention": lambda width: aggr.AttentionalAggregation(nn.Linear(width, 1)),
    "deepsets": _deep_sets,
    "ea": lambda width: EAAggregation(width, width, steps=STEPS),
    "sum_ea": SumEAAggregation,
}


@dataclass(frozen=True)
class Config:
    """Settings of the study; the same for every method but for norms and learning rate.

    Args:
        methods: aggregators over neighbours.
        seeds: number of graphs.
        norms: where a LayerNorm is: nowhere (null), output of the aggregator, or both, its output
            and its input. Each is tried for each method, with each learning rate.
        learning_rates: tried on another graph; more are while the best is at the edge.
        ea_rate: learning rate of EA's parameters over that of the rest.
        steps: training steps, each on the whole graph.
        evaluations: evaluations along a run, evenly spaced; the best on the valid part counts.
        width: hidden size.
        dropout: before each layer.
        jobs: runs at a time.
        results: folder of the records.
    """

    methods: list[str] = field(default_factory=lambda: list(AGGREGATORS))
    seeds: PositiveInt = 5
    norms: list[Literal["output", "both"] | None] = field(
        default_factory=lambda: [None, "output", "both"]
    )
    learning_rates: list[float] = field(default_factory=lambda: [3e-3, 1e-2, 3e-2])
    ea_rate: PositiveFloat = 0.2
    steps: PositiveInt = 100
    evaluations: PositiveInt = 10
    width: PositiveInt = 32
    dropout: float = 0.2
    jobs: PositiveInt = 1
    results: str = "results/nodes"


class Normed(Aggregation):
    """An aggregation with a LayerNorm behind it, and one before it if ``norm`` is ``"both"``."""

    def __init__(self, aggregation: Aggregation, width: int, norm: str | None) -> None:
        super().__init__()
        self.aggregation = aggregation
        self.before = nn.LayerNorm(width) if norm == "both" else nn.Identity()
        self.behind = nn.LayerNorm(width) if norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = -2,
    ) -> Tensor:
        """As any aggregation of PyG."""
        return self.behind(self.aggregation(self.before(x), index, None, dim_size, dim))


class NodeNetwork(nn.Module):
    """A linear layer, two SAGE layers with this aggregator, a linear head."""

    def __init__(self, name: str, width: int, norm: str | None, dropout: float) -> None:
        super().__init__()
        aggregators = [Normed(AGGREGATORS[name](width), width, norm) for _ in range(2)]
        self.encoder, self.head = nn.Linear(FEATURES, width), nn.Linear(width, CLASSES)
        self.layers = nn.ModuleList([SAGEConv(width, width, aggr=own) for own in aggregators])
        self.dropout = dropout

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Logits ``[N, 4]``."""
        x = self.encoder(x)
        for layer in self.layers:
            x = F.dropout(x.relu(), self.dropout, self.training)
            x = layer(x, edges)
        return self.head(x.relu())


def sample_graph(seed: int) -> Data:
    """A graph with features x, labels y, and the part of each node: 0 train, 1 valid, 2 test."""
    generator = Generator().manual_seed(seed)
    labels = torch.arange(NODES) % CLASSES
    centres = torch.randn(CLASSES, FEATURES, generator=generator)
    x = centres[labels] + NOISE * torch.randn(NODES, FEATURES, generator=generator)
    same = labels[:, None] == labels
    size = NODES / CLASSES
    chance = torch.where(same, DEGREES[0] / size, DEGREES[1] / (NODES - size))
    drawn = (torch.rand(NODES, NODES, generator=generator) < chance).triu(1)
    order, part = torch.randperm(NODES, generator=generator), torch.full((NODES,), 2)
    part[order[: sum(SPLIT)]] = 1
    part[order[: SPLIT[0]]] = 0
    return Data(x=x, y=labels, part=part, edge_index=(drawn | drawn.T).nonzero().T.contiguous())


@torch.no_grad()
def evaluate(model: NodeNetwork, graph: Data, part: int, outliers: float = 0.0) -> float:
    """Accuracy on the nodes of a part that are no outliers."""
    generator = Generator().manual_seed(0)
    is_outlier = torch.rand(NODES, generator=generator) < outliers
    noise = OUTLIER_NOISE * torch.randn(NODES, FEATURES, generator=generator)
    x = torch.where(is_outlier[:, None], noise, graph.x)
    model.eval()
    used = (graph.part == part) & ~is_outlier
    right = model(x, graph.edge_index).argmax(dim=1) == graph.y
    model.train()
    return right[used].double().mean().item()


def perform(run: Run, path: Path) -> Outcome:
    """Trains and evaluates a network; leaves nothing but its record."""
    settings, graph = run.settings, sample_graph(run.seed)
    torch.manual_seed(run.seed)
    model = NodeNetwork(run.row, settings["width"], settings.get("norm"), settings["dropout"])
    rate, steps, number = settings["learning_rate"], settings["steps"], settings["evaluations"]
    layers = [m for m in model.modules() if isinstance(m, EAAggregation)]
    of_ea = {p for layer in layers for p in layer.parameters()}
    others = [p for p in model.parameters() if p not in of_ea]
    groups: list[dict[str, Any]] = [{"params": others}]
    if of_ea:
        own = [p for p in model.parameters() if p in of_ea]
        groups.append({"params": own, "lr": rate * settings["ea_rate"]})
    optimizer = torch.optim.Adam(groups, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    stops = {round(steps * (k + 1) / number) for k in range(number)}
    train, best, seconds = graph.part == 0, -1.0, 0.0
    points: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        started = time.process_time()
        loss = F.cross_entropy(model(graph.x, graph.edge_index)[train], graph.y[train])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        seconds += time.process_time() - started
        if step in stops:
            valid, test = evaluate(model, graph, 1), evaluate(model, graph, 2)
            point = {"epoch": step, "valid": valid, "test": test, "train_loss": loss.item()}
            points.append(point)
            if valid > best:
                best, at, found = valid, step, test
                scores = {f"outliers_{100 * p:.0f}": evaluate(model, graph, 2, p) for p in OUTLIERS}
    curve = pd.DataFrame(points)
    print_of_graph = sha256(str((graph.x.sum().item(), graph.edge_index.sum().item())))
    record: dict[str, Any] = {
        "metric": "accuracy", "valid": best, "test": found,
        "test_last": curve["test"].tail(LAST).mean(), "best_epoch": at, "epochs": steps,
        "train_seconds": round(seconds, 2), "threads": torch.get_num_threads(),
        "parameters": count_parameters(model), "data": "block-model graphs", "split": "random",
        "graphs": "", "fingerprint": print_of_graph, "revision": revision(), **scores,
    }  # fmt: skip
    return Outcome(record, curve, curve["valid"].tail(LAST).mean())


@command
def main(argv: Sequence[str]) -> int:
    """Makes the study; exit code 1 when a run failed."""
    config = parse(argv)
    shared = {key: value for key, value in asdict(config).items() if key not in NOT_OF_A_RUN}

    def settings(row: str, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in (shared | changes).items() if value is not None}

    tuned: dict[str, Sequence[Any]] = {
        "norm": config.norms,
        "learning_rate": config.learning_rates,
    }
    grid = Grid(
        "nodes",
        dict.fromkeys(AGGREGATORS, "sum"),
        settings,
        perform,
        Tuning(tuned, TUNING_SEED, {}, "learning_rate"),
        is_lower_better=False,
        identity={"data": "block-model graphs"},
    )
    places = Path(config.results), Path("runs", "nodes")
    return run_study(grid, config.methods, range(config.seeds), *places, config.jobs)


def parse(argv: Sequence[str]) -> Config:
    """The settings of the study from the command line."""
    parser = ArgumentParser(
        prog="python -m experiments.nodes",
        description="Node classification, EA against other aggregators over neighbours. "
        "Interrupted, call it again: it continues with the next run.",
        exit_on_error=False,
    )
    parser.add_class_arguments(Config)
    try:
        return Config(**parser.parse_args(list(argv)).as_dict())
    except (ArgumentError, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error


if __name__ == "__main__":
    sys.exit(main())
