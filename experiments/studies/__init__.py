"""Studies: grids of runs, rows x seeds, with their records, tables and figures."""
