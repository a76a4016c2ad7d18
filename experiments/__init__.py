"""Experiments with `pyg_ea`; each subpackage is one command, `python -m experiments.NAME`."""

import os

# Before torch is imported. Threads that wait for each other sleep soon: on idle cores an epoch
# takes some 8 % longer, beside two busy processes on two cores little more than half the time.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
