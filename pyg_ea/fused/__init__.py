"""Fused layer: a whole solve of the default potential, prior and solver as one autograd node."""

from pyg_ea.fused.solve import is_supported, solve, solve_backend
from pyg_ea.fused.torch_solve import Steps

__all__ = ["Steps", "is_supported", "solve", "solve_backend"]
