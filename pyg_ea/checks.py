"""Checks of arguments that several modules share."""


def positive_integer(name: str, value: int) -> int:
    """``value`` if it is an integer of at least 1.

    Raises:
        TypeError: for anything but an integer.
        ValueError: for one below 1.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value
