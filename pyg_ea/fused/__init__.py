"""Fused layer: a whole solve of the default potential, prior and solver as one autograd node."""

from pyg_ea.fused.autograd import solve
from pyg_ea.fused.backends import solve_backend

__all__ = ["solve", "solve_backend"]
