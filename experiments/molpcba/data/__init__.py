"""Molecules for the trainer: OGB's set, a CSV file of one's own, or the embedded set.

`load` finds or prepares a set and gives a `MoleculeData`; `GraphLoader` makes batches of it.
"""

from .dataset import MoleculeData
from .errors import DataError
from .loader import GraphLoader
from .loading import load
from .molecules import Rejected, smiles_to_graphs
from .packed import PackedGraphs

__all__ = [
    "DataError",
    "GraphLoader",
    "MoleculeData",
    "PackedGraphs",
    "Rejected",
    "load",
    "smiles_to_graphs",
]
