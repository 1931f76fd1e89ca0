"""What people have as what the diagnosis needs: logs, exports and stores as curves; configurations as a setup."""

from harness.diagnose.read.curves import ACCEPTED, read_curve, read_curves, read_named
from harness.diagnose.read.setups import Given, parameter_sizes, read_setup

__all__ = ["ACCEPTED", "Given", "parameter_sizes", "read_curve", "read_curves", "read_named", "read_setup"]
