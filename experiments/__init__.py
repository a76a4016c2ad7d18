"""Experiments with `pyg_ea`; `python -m experiments.NAME` runs one."""

from experiments import environment as environment
