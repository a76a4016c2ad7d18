"""The only import of `ogb`, with its traps disarmed.

- `import ogb` starts a thread that asks PyPI for a newer version when the package `outdated` is
  installed. A `None` entry in `sys.modules` makes that import fail, and ogb then skips the check.
- ogb 1.3.6 reads its cache with plain `torch.load`, which since torch 2.6 accepts registered
  classes only. The three classes below are what a collated PyG data set holds besides `Data`.
  (They are registered for good: the context manager `safe_globals` would, on exit, also remove
  the registrations PyG made itself.)
"""

import sys

sys.modules.setdefault("outdated", None)  # type: ignore[arg-type]

import torch  # noqa: E402
from ogb.graphproppred import Evaluator, PygGraphPropPredDataset  # noqa: E402
from ogb.graphproppred.mol_encoder import AtomEncoder, BondEncoder  # noqa: E402
from ogb.utils.features import (  # noqa: E402
    atom_to_feature_vector,
    bond_to_feature_vector,
    get_atom_feature_dims,
    get_bond_feature_dims,
)
from ogb.utils.mol import smiles2graph  # noqa: E402
from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr  # noqa: E402
from torch_geometric.data.storage import GlobalStorage  # noqa: E402

torch.serialization.add_safe_globals([DataEdgeAttr, DataTensorAttr, GlobalStorage])

__all__ = [
    "AtomEncoder",
    "BondEncoder",
    "Evaluator",
    "PygGraphPropPredDataset",
    "atom_to_feature_vector",
    "bond_to_feature_vector",
    "get_atom_feature_dims",
    "get_bond_feature_dims",
    "smiles2graph",
]
