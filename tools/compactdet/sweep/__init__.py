"""Grids of runs: here, on Slurm or on Ray."""
