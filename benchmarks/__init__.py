"""Benchmarks of the library against its peers: ``python -m benchmarks --help``."""
