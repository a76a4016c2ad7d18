"""Node classification on block-model graphs: aggregators over neighbours, outliers at test.

``python -m experiments.nodes``: see ``--help``. A seed decides a graph of 2,000 nodes in 4 classes.
A node has edges to 6 nodes of its class and to 4 others on average. Its features are the centre of
its class and noise, too much to tell the class without the neighbours.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import joblib
import pandas as pd
import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveFloat, PositiveInt
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv, aggr
from torch_geometric.nn.aggr import Aggregation

from experiments.common import command, revision
from experiments.engine import Grid, Tuning, run_study
from experiments.flags import Parser, opt
from experiments.records import LAST, Outcome, Run
from experiments.sets.study import TUNING_SEED
from experiments.sets.training import count_parameters
from pyg_ea import EAAggregation, SumEAAggregation, parameter_groups

NODES, CLASSES, FEATURES = 2000, 4, 16
NOISE = 4.0  # standard deviation around a class's centre; the centres have 1
DEGREES = 6.0, 4.0  # neighbours of a node's own class and of others
SPLIT = 400, 400  # nodes of the train and the valid part; the rest are the test part
OUTLIERS = 0.1, 0.2, 0.3  # shares of nodes whose features become noise of this deviation:
OUTLIER_NOISE = 10.0
NOT_OF_A_RUN = ("methods", "seeds", "norms", "learning_rates", "jobs", "out")
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


# ruff: noqa: RUF009 (opt is dataclasses.field)
@dataclass(frozen=True)
class Config:
    """Settings of the study; the same for every method but for norms and learning rate."""

    # study
    methods: list[str] = opt(list(AGGREGATORS), "aggregators over neighbours")
    seeds: PositiveInt = opt(5, "number of graphs")
    norms: list[Literal["output", "both"] | None] = opt(
        [None, "output", "both"],
        "places of a LayerNorm, each tried for each method: null, none; output, behind the "
        "aggregator; both, also before it",
    )
    learning_rates: list[float] = opt(
        [3e-3, 1e-2, 3e-2], "tried on another graph; more are while the best is at the edge"
    )
    jobs: PositiveInt = opt(1, "runs at a time")
    out: str = opt("runs/nodes", "folder of records, table and pictures")
    # run
    ea_rate: PositiveFloat = opt(0.2, "learning rate of EA's parameters over the rest's")
    steps: PositiveInt = opt(100, "training steps, each on the whole graph")
    evaluations: PositiveInt = opt(
        10, "evaluations along a run, evenly spaced; the best on the valid part counts"
    )
    width: PositiveInt = opt(32, "hidden size")
    dropout: ClosedUnitInterval = opt(0.2, "share of features left out before each layer")


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


def _train(run: Run, steps: int) -> tuple[NodeNetwork, Data, Iterator[tuple[int, float, float]]]:
    """A run's network and graph, and its training: each step, its loss, the time so far."""
    settings, graph = run.settings, sample_graph(run.seed)
    torch.manual_seed(run.seed)
    model = NodeNetwork(run.row, settings["width"], settings.get("norm"), settings["dropout"])
    rate = settings["learning_rate"]
    has_ea = any(isinstance(module, EAAggregation) for module in model.modules())
    groups = parameter_groups(model, rate * settings["ea_rate"]) if has_ea else model.parameters()
    optimizer = torch.optim.Adam(groups, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def training() -> Iterator[tuple[int, float, float]]:
        train, seconds = graph.part == 0, 0.0
        for step in range(1, steps + 1):
            started = time.process_time()
            loss = F.cross_entropy(model(graph.x, graph.edge_index)[train], graph.y[train])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            seconds += time.process_time() - started
            yield step, loss.item(), seconds

    return model, graph, training()


def estimate(run: Run) -> float:
    """Estimated seconds of a run, from the second of two steps."""
    (_, _, first), (_, _, second) = _train(run, steps=2)[2]
    return (second - first) * (run.settings["steps"] + run.settings["evaluations"])


def perform(run: Run, path: Path) -> Outcome:
    """Trains and evaluates a network; leaves nothing but its record."""
    steps, number = run.settings["steps"], run.settings["evaluations"]
    stops = {round(steps * (k + 1) / number) for k in range(number)}
    model, graph, training = _train(run, steps)
    best = -1.0
    points: list[dict[str, float]] = []
    for step, loss, seconds in training:
        if step in stops:
            valid, test = evaluate(model, graph, 1), evaluate(model, graph, 2)
            point = {"epoch": step, "valid": valid, "test": test, "train_loss": loss}
            points.append(point | {"processor_seconds": round(seconds, 2)})
            if valid > best:
                best, at, found = valid, step, test
                scores = {f"outliers_{100 * p:.0f}": evaluate(model, graph, 2, p) for p in OUTLIERS}
    curve = pd.DataFrame(points)
    fingerprint = joblib.hash((graph.x.numpy(), graph.edge_index.numpy()))
    record: dict[str, Any] = {
        "metric": "accuracy", "valid": best, "test": found,
        "test_last": curve["test"].tail(LAST).mean(), "best_epoch": at, "epochs": steps,
        "train_seconds": seconds / steps, "threads": torch.get_num_threads(),
        "parameters": count_parameters(model), "data": "block-model graphs", "split": "random",
        "graphs": "", "fingerprint": fingerprint, "revision": revision(), **scores,
    }  # fmt: skip
    return Outcome(record, curve, curve["valid"].tail(LAST).mean())


@command
def main(argv: Sequence[str]) -> int:
    """Makes the study; exit code 1 when a run failed."""
    config = Config(**PARSER.values(argv))
    shared = {key: value for key, value in asdict(config).items() if key not in NOT_OF_A_RUN}
    shared["learning_rate"] = config.learning_rates[0]
    tuned: dict[str, Sequence[Any]] = {"norm": config.norms, "learning_rate": config.learning_rates}
    grid = Grid(
        "nodes",
        dict.fromkeys(AGGREGATORS, "sum"),
        lambda row, seed, changes: shared | changes,
        perform,
        Tuning(tuned, TUNING_SEED, {}, "learning_rate"),
        is_lower_better=False,
        identity={"data": "block-model graphs"},
        seconds=estimate,
    )
    return run_study(grid, config.methods, range(config.seeds), Path(config.out), config.jobs)


PARSER = Parser(
    Config,
    "python -m experiments.nodes",
    "Node classification, EA against other aggregators over neighbours. Interrupted, call it "
    "again: it continues with the next run.",
    {"methods": "study", "ea_rate": "run"},
)

if __name__ == "__main__":
    sys.exit(main())
