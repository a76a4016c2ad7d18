"""Molecules for the trainer: OGB's sets, a CSV file of one's own, or the embedded set."""

from experiments.molpcba.data.graphs import GraphLoader, MoleculeData, PackedGraphs
from experiments.molpcba.data.prepared import load

__all__ = ["GraphLoader", "MoleculeData", "PackedGraphs", "load"]
