"""Equilibrium Aggregation for PyTorch Geometric."""

from pyg_ea.adjoints import Checkpointed, Implicit, Truncated, Unrolled
from pyg_ea.aggregation import EAAggregation
from pyg_ea.conv import EAConv, SumEAAggregation
from pyg_ea.energy import L2Prior
from pyg_ea.fused import solve_backend
from pyg_ea.losses import auxiliary_loss
from pyg_ea.multi import NormedMultiAggregation
from pyg_ea.optim import parameter_groups
from pyg_ea.pool import EAGlobalPool
from pyg_ea.potentials import ResNetPotential
from pyg_ea.solutions import collect_solutions
from pyg_ea.solver import NesterovSolver

__all__ = [
    "Checkpointed",
    "EAAggregation",
    "EAConv",
    "EAGlobalPool",
    "Implicit",
    "L2Prior",
    "NesterovSolver",
    "NormedMultiAggregation",
    "ResNetPotential",
    "SumEAAggregation",
    "Truncated",
    "Unrolled",
    "auxiliary_loss",
    "collect_solutions",
    "parameter_groups",
    "solve_backend",
]

__version__ = "0.1.0"
