"""The policy of a run by its name: those of the device, and `timed`, which needs a clock."""

from __future__ import annotations

import re

from harness.clock.timed import Timed, clocked
from harness.device.policies import MainFirst, Priorities, RandomOrder, SideFirst
from harness.device.schedule import Eager, Policy
from harness.system.errors import HarnessError

PLAIN: dict[str, type[Policy]] = {"eager": Eager, "side-first": SideFirst, "main-first": MainFirst}


def policy_named(text: str, seed: int = 0) -> Policy:
    """The policy of that name; `random(n)` and `pct(n,…)` depend on n and on the run's seed. Raises HarnessError."""
    if text in PLAIN:
        return PLAIN[text]()
    if match := re.fullmatch(r"random\((\d+)\)", text):
        return RandomOrder(f"{match[1]}/{seed}")
    if match := re.fullmatch(r"pct\((\d+)(?:,(\d+),(\d+))?\)", text):
        return Priorities(f"{match[1]}/{seed}", *(int(number) for number in match.groups()[1:] if number))
    if match := re.fullmatch(r"timed(?:\((\d+)((?:,[\w.-]+){0,2})\))?", text):
        return Timed(float(match[1] or 1), clocked(*(match[2] or "").split(",")[1:]))
    raise HarnessError(
        f"policy {text!r} is not known here; use one of {', '.join(PLAIN)}, random(SEED), pct(SEED,DEPTH,OPS), "
        "timed or timed(SCALE,NETWORK,GPU)"
    )
