r"""
EA beside other aggregations, heterogeneous graphs, export
==========================================================

``EAAggregation`` is a PyG aggregation. It goes wherever PyG takes one: into the ``aggr`` argument
of a layer, beside others, through ``to_hetero``, and through ``torch.export``.
"""

import io

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch_geometric.nn import GINConv, SAGEConv, to_hetero
from torch_geometric.nn.aggr import MultiAggregation

from pyg_ea import (
    EAAggregation,
    EAGlobalPool,
    NormedMultiAggregation,
    auxiliary_loss,
    collect_solutions,
)

torch.manual_seed(0)

# %%
# Several readouts side by side
# -----------------------------
#
# Every part needs a norm of its own. A sum grows with the number of nodes, and the result of EA has
# no natural scale, so behind PyG's ``MultiAggregation`` one part drowns the others.
# ``NormedMultiAggregation`` has a ``LayerNorm`` behind each.

x = torch.randn(2000, 16) + 0.5
batch = torch.arange(2000) // 40  # 50 graphs of 40 nodes
parts = {"EA": 48, "mean": 16, "sum": 16, "max": 16}


def readouts() -> list:
    """EA with a vector of 48, and three of PyG's."""
    return [EAAggregation(16, 48, steps=5), "mean", "sum", "max"]


bare = MultiAggregation(readouts())
normed = NormedMultiAggregation(readouts(), channels=list(parts.values()))

figure, axes = plt.subplots(figsize=(6.4, 3), layout="constrained")
for place, (name, pool) in enumerate({"bare": bare, "each behind its norm": normed}.items()):
    with torch.no_grad():
        pieces = pool(x, batch).split(list(parts.values()), dim=1)
    sizes = [float(piece.square().mean().sqrt()) for piece in pieces]
    print(f"{name}: " + ", ".join(f"{k} {v:.2f}" for k, v in zip(parts, sizes, strict=True)))
    axes.bar([i + 0.4 * place for i in range(4)], sizes, width=0.38, label=name)
axes.set(xticks=[i + 0.2 for i in range(4)], xticklabels=list(parts), ylabel="root mean square")
axes.set_yscale("log")
axes.legend()

# %%
# In a layer of PyG
# -----------------
#
# In a layer the elements are the messages, so both sizes of ``EAAggregation`` are that of a
# message. Every edge is an element here, which costs much more than a readout. As a neighbour
# aggregator EA did not improve any score that we measured.

edge_index = torch.randint(0, 2000, (2, 6000))
conv = SAGEConv(16, 32, aggr=EAAggregation(16, 16, steps=3))
print(conv(x, edge_index).shape)
print(conv.aggr_module.diagnose(x[edge_index[0]], edge_index[1], dim_size=2000))

# %%
# Heterogeneous graphs
# --------------------
#
# ``to_hetero`` copies the layer for each type of edge. ``collect_solutions`` gathers the solutions
# of all copies. The readout is called on the nodes of one type.


class Encoder(nn.Module):
    """One layer whose neighbours are aggregated by a mean and by EA."""

    def __init__(self) -> None:
        super().__init__()
        aggr = NormedMultiAggregation(["mean", EAAggregation(16, 16, steps=3)], channels=16)
        self.conv = SAGEConv((16, 16), 16, aggr=aggr)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """New features of the nodes."""
        return self.conv(x, edge_index).relu()


types = ["paper", "author"]
relations = [("author", "writes", "paper"), ("paper", "cites", "paper"), ("paper", "by", "author")]
encoder = to_hetero(Encoder(), (types, relations))
nodes = {"paper": torch.randn(60, 16), "author": torch.randn(20, 16)}
edges = {
    relations[0]: torch.stack([torch.randint(0, 20, (150,)), torch.randint(0, 60, (150,))]),
    relations[1]: torch.randint(0, 60, (2, 200)),
    relations[2]: torch.stack([torch.randint(0, 60, (150,)), torch.randint(0, 20, (150,))]),
}
pool = EAGlobalPool(16, 48)
with collect_solutions() as solutions:
    out = encoder(nodes, edges)
    vectors = pool(out["paper"], torch.arange(60) // 20)  # papers of three venues
loss = vectors.square().mean() + 0.01 * auxiliary_loss(solutions)
loss.backward()
print(vectors.shape, f"loss {loss.item():.3f}")

# %%
# Export for deployment
# ---------------------
#
# ``torch.export`` captures the model with dynamic numbers of nodes, edges and graphs. The file
# loads where only torch is installed. (``torch.jit`` is not supported and says so.)


class Classifier(nn.Module):
    """A layer, several readouts and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GINConv(nn.Linear(16, 16))
        self.pool = NormedMultiAggregation(readouts(), channels=list(parts.values()))
        self.head = nn.Linear(sum(parts.values()), 2)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, size: int) -> Tensor:
        """Scores of two classes for each of ``size`` graphs."""
        x = self.conv(x, edge_index).relu()
        return self.head(self.pool(x, batch, dim_size=size))


model = Classifier().eval()
n, e, s = map(torch.export.Dim, ("nodes", "edges", "graphs"))
program = torch.export.export(
    model,
    (x, edge_index, batch, 50),
    dynamic_shapes=({0: n}, {1: e}, {0: n}, torch.export.Dim.DYNAMIC),
)
file = io.BytesIO()
torch.export.save(program, file)

file.seek(0)
deployed = torch.export.load(file).module()
other = torch.randn(90, 16), torch.randint(0, 90, (2, 300)), torch.arange(90) // 30, 3
with torch.no_grad():
    difference = float((deployed(*other) - model(*other)).abs().max())
print(f"largest difference on another batch: {difference:.1e}")
assert difference < 1e-5
