"""Runs studies on a SLURM cluster: submits and watches on the login node, and gives runs their turns in allocations.

On the login node: `profile` (what a cluster is like), `arrays` and `script` (a study as job arrays), `submit`,
`cancel`, `clients` and `scheduler` (what SLURM is told and says), `limits`, `waiting` and `budget` (what may be sent),
`status` (what is shown), `again` (what is sent once more) and `notify` (who is told). In the allocation: `task` (an
array task), `turns` (of its runs), `srun` and `ended` (its job steps), and the programs of ranks, `rank`, `bandwidth`
and `node`. Nodes that are not well: `examine` (looks, decides), `health`, `nvidia_smi` and `links` (what is wrong, and
with whom), `checks` (what the study knows of its nodes) and `elsewhere` (what SLURM does about it).
"""
