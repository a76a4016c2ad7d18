"""Equilibrium Aggregation for PyTorch Geometric."""

from pyg_ea.adjoints import (
    Adjoint,
    Checkpointed,
    Implicit,
    ImplicitGradientWarning,
    Truncated,
    Unrolled,
)
from pyg_ea.aggregation import EAAggregation
from pyg_ea.conv import EAConv
from pyg_ea.diagnostics import Diagnostics, DivergenceWarning
from pyg_ea.energy import (
    Energy,
    L2Prior,
    NoPrior,
    Prior,
    log_scaling,
    mean_scaling,
    unit_scaling,
)
from pyg_ea.forms import GCNForm, GINForm
from pyg_ea.fused import solve_backend
from pyg_ea.losses import auxiliary_loss
from pyg_ea.multi import NormedMultiAggregation
from pyg_ea.optim import parameter_groups
from pyg_ea.pool import EAGlobalPool
from pyg_ea.potentials import (
    AttentionPotential,
    MaxPotential,
    MeanPotential,
    Potential,
    QuantilePotential,
    ResNetPotential,
    SumPotential,
)
from pyg_ea.segments import Segments
from pyg_ea.solver import NesterovSolver, Solution
from pyg_ea.sum_ea import SumEAAggregation

__all__ = [
    "Adjoint",
    "AttentionPotential",
    "Checkpointed",
    "Diagnostics",
    "DivergenceWarning",
    "EAAggregation",
    "EAConv",
    "EAGlobalPool",
    "Energy",
    "GCNForm",
    "GINForm",
    "Implicit",
    "ImplicitGradientWarning",
    "L2Prior",
    "MaxPotential",
    "MeanPotential",
    "NesterovSolver",
    "NoPrior",
    "NormedMultiAggregation",
    "Potential",
    "Prior",
    "QuantilePotential",
    "ResNetPotential",
    "Segments",
    "Solution",
    "SumEAAggregation",
    "SumPotential",
    "Truncated",
    "Unrolled",
    "auxiliary_loss",
    "log_scaling",
    "mean_scaling",
    "parameter_groups",
    "solve_backend",
    "unit_scaling",
]

__version__ = "0.1.0"
