"""Studies: grids of runs paired by seed, their records, tables and pictures."""
