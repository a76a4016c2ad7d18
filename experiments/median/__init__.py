"""Median estimation (appendix D.1): Equilibrium Aggregation against other aggregators."""
