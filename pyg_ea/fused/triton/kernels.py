"""The kernels of a step."""

from pyg_ea.fused.triton.elements import stage1, stage2, stage3
from pyg_ea.fused.triton.states import reduce, turn, update

__all__ = ["reduce", "stage1", "stage2", "stage3", "turn", "update"]
