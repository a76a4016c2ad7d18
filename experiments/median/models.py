"""One encoder, one aggregator, one decoder, and the width that fits them to a budget."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experiments.median.aggregators import AGGREGATORS, Entry
from experiments.median.config import UserError


class MedianModel(nn.Module):
    """Encodes each value, aggregates, and decodes the result into the estimated median.

    Args:
        entry: the aggregator.
        embedding: size of an encoded element.
        width: hidden width of encoder and decoder.

    Shapes:
        - **values:** :math:`(S, n)`, **output:** :math:`(S)`
    """

    def __init__(self, entry: Entry, embedding: int, width: int) -> None:
        super().__init__()
        self.encoder = _mlp(1, width, embedding)
        self.aggregator = entry.build(embedding)
        self.decoder = _mlp(embedding * entry.widening, width, 1)

    def forward(self, values: Tensor) -> Tensor:
        """``[S, n] -> [S]``."""
        num_sets, size = values.shape
        index = torch.arange(num_sets).repeat_interleave(size)
        elements = self.encoder(values.reshape(-1, 1))
        result = self.aggregator(elements, index, dim_size=num_sets)
        return self.decoder(result).squeeze(1)


def count_parameters(model: nn.Module) -> int:
    """Number of scalar parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def model_for_budget(name: str, embedding: int, parameters: int) -> MedianModel:
    """The model of aggregator ``name`` with the widest encoder and decoder within the budget.

    An aggregator without parameters gets a larger encoder and decoder in exchange.

    Raises:
        UserError: if the aggregator alone exceeds the budget.
    """
    entry = AGGREGATORS[name]

    def size(width: int) -> int:
        with torch.device("meta"):
            return count_parameters(MedianModel(entry, embedding, width))

    if size(1) > parameters:
        raise UserError(
            f"parameters: got {parameters}, expected at least {size(1)} for {name} "
            f"at embedding {embedding}; raise parameters or lower embedding"
        )
    low, high = 1, parameters  # size(low) fits, size(high) does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= parameters else (low, middle)
    return MedianModel(entry, embedding, low)


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Linear(width, outputs),
    )
