"""What a run asks of its GPUs: floating-point operations, memory by part, hours, and whether it fits a card.

Plain formulas over a run and its model file, each with its source; nothing here needs torch.
"""

from harness.budget.fit import check_fits, memory_sentence, misfits
from harness.budget.flops import (
    CONVENTION,
    hardware_flops_per_token,
    matrix_parameters,
    model_flops_per_token,
    model_of,
    step_flops,
)
from harness.budget.hours import Spent, planned_gpu_hours, rank_hours, spent_hours, unit_of
from harness.budget.memory import Memory, estimate_memory

__all__ = [
    "CONVENTION",
    "Memory",
    "Spent",
    "check_fits",
    "estimate_memory",
    "hardware_flops_per_token",
    "matrix_parameters",
    "memory_sentence",
    "misfits",
    "model_flops_per_token",
    "model_of",
    "planned_gpu_hours",
    "rank_hours",
    "spent_hours",
    "step_flops",
    "unit_of",
]
