"""What a piece of work takes on a cluster by a cost model's clock, and the policy that orders work by it.

The clock itself is plain arithmetic. `harness.clock.policy` and `harness.clock.timed` order the ops of the virtual
device, and need torch.
"""

from harness.clock.collectives import Layout, Wire, collective, layout

__all__ = ["Layout", "Wire", "collective", "layout"]
