"""Potentials F(x, y): the learned one of the paper and those with a known minimiser."""

from pyg_ea.potentials.base import AutogradPotential, BoundPotential, Potential, bind
from pyg_ea.potentials.classic import (
    AttentionPotential,
    MaxPotential,
    MeanPotential,
    QuantilePotential,
    SumPotential,
)
from pyg_ea.potentials.resnet import ResNetPotential

__all__ = [
    "AttentionPotential",
    "AutogradPotential",
    "BoundPotential",
    "MaxPotential",
    "MeanPotential",
    "Potential",
    "QuantilePotential",
    "ResNetPotential",
    "SumPotential",
    "bind",
]
