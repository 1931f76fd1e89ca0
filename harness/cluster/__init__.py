"""A real SLURM on this machine: one slurmd per network namespace, linked at a bandwidth of choice."""

from harness.cluster.cluster import Cluster, Node
from harness.cluster.spec import Spec

__all__ = ["Cluster", "Node", "Spec"]
