"""What people have as what the diagnosis needs: logs, exports and stores as curves; configurations as a setup."""

from harness.diagnose.read.curves import ACCEPTED, read_curve, read_curves

__all__ = ["ACCEPTED", "read_curve", "read_curves"]
