"""``--adjoint``: how backward goes through EA's steps, by the name the command line knows."""

from __future__ import annotations

from experiments.molpcba.errors import UserError
from pyg_ea import Adjoint, Checkpointed, Implicit, Truncated, Unrolled

ADJOINTS: dict[str, type[Adjoint]] = {
    "unrolled": Unrolled,
    "checkpointed": Checkpointed,
    "implicit": Implicit,
}
"""Names without a number; ``truncated-K`` goes back through the last K steps."""

NAMES = (*ADJOINTS, "truncated-K")


def build_adjoint(name: str) -> Adjoint:
    """``"truncated-3" -> Truncated(3)``, and so on.

    Raises:
        UserError: for any other name.
    """
    kind, _, last = name.partition("-")
    if kind == "truncated" and last.isdecimal() and int(last) > 0:
        return Truncated(int(last))
    if name not in ADJOINTS:
        raise UserError(f"--adjoint must be one of {', '.join(NAMES)} (K: 1 or more), got {name!r}")
    return ADJOINTS[name]()
