"""Starts the ranks of runs, follows them, and writes down how they ended.

`local` runs a study on this machine, several runs side by side (`launcher`), each forked from a warm process
(`forkserver`); `slurm` sends it to a cluster. Nothing here but the programs of ranks imports torch or DeepSpeed.
"""
