"""Runs studies on a SLURM cluster: submits and watches on the login node, and gives runs their turns in allocations.

On the login node: `profile` (what a cluster is like), `arrays` and `script` (a study as job arrays), `submit`,
`cancel`, `clients` and `scheduler` (what SLURM is told and says), `limits`, `waiting` and `budget` (what may be sent),
`status` (what is shown), `again` (what is sent once more) and `notify` (who is told). In the allocation: `task` (an
array task), `srun` and `ended` (its job steps), and the programs of ranks, `rank` and `bandwidth`.
"""
