"""Starts the ranks of runs: on this machine (local) or through SLURM (slurm)."""
