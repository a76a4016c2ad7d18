"""How a constrained scalar is held as a free parameter."""

import math


def inverse_softplus(value: float) -> float:
    """The argument at which softplus is ``value`` > 0."""
    return value + math.log(-math.expm1(-value))


def logit(value: float) -> float:
    """The argument at which the sigmoid is ``value`` in [0, 1)."""
    return math.log(value / (1 - value)) if value else -math.inf
