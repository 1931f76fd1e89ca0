"""Known faults of hpZ: which a training is exposed to, which a curve looks like, what the old copy never writes."""

from harness.diagnose.faults import Exposure, exposures
from harness.diagnose.missing_copy import missing_in_model, new_copy_raises, old_copy
from harness.diagnose.setup import Setup

__all__ = [
    "Exposure",
    "Setup",
    "exposures",
    "missing_in_model",
    "new_copy_raises",
    "old_copy",
]
