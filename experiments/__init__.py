"""Experiments with `pyg_ea`; each subpackage is one command, `python -m experiments.NAME`."""
