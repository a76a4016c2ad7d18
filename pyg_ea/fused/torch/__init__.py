"""Backend in torch operations, for any device; the reference of the other backends."""

from pyg_ea.fused.torch.steps import TorchBackend, plain_steps

__all__ = ["TorchBackend", "plain_steps"]
