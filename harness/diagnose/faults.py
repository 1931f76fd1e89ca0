"""The known faults as data (`known/*.toml`), and which of them a setup is exposed to.

A fault's entry says what one sees, which releases and settings have it, how sure that is, and the way out. They look
alike from outside (NaN, zero or stuck loss); release, sizes and settings tell them apart. The windows are what the
sources of all releases show (`harness.diagnose.evidence`); those of what is only reported are what was reported.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.configuration import FIRST
from harness.diagnose.facts import FACTS, OF_SCRIPT
from harness.diagnose.judges import JUDGES, Answer
from harness.diagnose.setup import Setup, check
from harness.system.errors import HarnessError, nearest
from harness.variants.families import version_key

TABLES = Path(__file__).parent / "known"
FILES = ("hpz", "zeropp", "zero3", "zero12", "training", "environment")
NEWEST = ""
"""The last release of a window that is still open."""

Window = tuple[str, str]
"""First and last release; NEWEST where the newest is in it."""
Harm = Literal["wrong", "stops", "slow", "no effect"]
"""What a fault does: wrong numbers, no training, slow training, or a setting that does nothing."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fault(Frozen):
    """A known fault: an entry of the table."""

    id: str
    plain: str
    """What is wrong, for one who has never heard of a secondary partition; no full stop."""
    first: str
    """What to do first, as short."""
    sees: str
    """What one sees of it."""
    why: str
    windows: tuple[Window, ...] = ()
    """The releases that have it, oldest first; none where DeepSpeed's release does not matter."""
    gaps: tuple[tuple[str, str, str], ...] = ()
    """Releases between the windows, and why they do not have it."""
    torch: str = ""
    """The first torch with which it shows."""
    torch_since: str = ""
    """The first release that is near to that torch in time; with an older one, an unknown torch is taken for older."""
    when: dict[str, Any] = Field(default_factory=dict)
    """Fact of `harness.diagnose.facts` → the value, or the values, with which it is there."""
    judge: str = ""
    """The function of `harness.diagnose.judges` that decides what facts alone do not, such as sizes."""
    examined: bool = True
    """False where this project has not looked into what the settings switch on."""
    harm: Harm
    silent: bool = False
    """Whether it may leave no sign in a curve."""
    sure: str
    """How sure it is: reproduced here, fixed upstream, read in the source, reported, guess."""
    fix: str
    way_out: str
    prove: str = ""
    """A command that shows it."""
    source: str
    """The upstream issue or pull request (`owner/repository#number`), or what it was found with."""
    shows: dict[str, int] = Field(default_factory=dict)
    """Sign of a curve (`harness.diagnose.signs`) → points for it, or against it."""
    errors: tuple[str, ...] = ()
    """Regular expressions of error messages that name it."""
    table: str
    """The file of the table that it stands in."""

    @property
    def confirmed(self) -> bool:
        """Whether others than this project have met it, or it was reproduced as they met it."""
        return not self.sure.startswith(("found here", "guess"))

    @property
    def of_settings(self) -> bool:
        """Whether release and settings say anything about it."""
        return bool(self.windows or self.when)

    def within(self, setup: Setup) -> bool:
        """Whether the setup's release has it."""
        return not self.windows or any(setup.within(first, last or None) for first, last in self.windows)


class Exposure(Frozen):
    """Whether a setup is exposed to a fault, why, and the way out."""

    fault: str
    """The fault's id."""
    plain: str
    exposed: Answer
    reason: str
    way_out: str
    """Empty where there is nothing to do."""
    asks: tuple[str, ...] = ()
    """What is not known and would decide: facts of `harness.diagnose.facts`, `release`, `torch`."""
    harm: Harm
    sure: str
    source: str

    @property
    def of_script(self) -> bool:
        """Whether only a script would say."""
        return bool(self.asks) and set(self.asks) <= OF_SCRIPT

    @property
    def needs(self) -> str:
        """What would decide, in words; empty where nothing that one could give does."""
        last = self.reason.split("; ")[-1]
        asked = self.exposed == "unknown" and (self.asks or last.startswith("give "))
        return last if asked else ""


@lru_cache(maxsize=1)
def table() -> tuple[Fault, ...]:
    """Every known fault, in the order of the files."""
    return tuple(
        Fault(**entry, table=name)
        for name in FILES
        for entry in tomllib.loads((TABLES / f"{name}.toml").read_text(encoding="utf-8"))["fault"]
    )


def named(fault: str) -> Fault:
    """The fault of that id, in any case and with spaces or dashes. Raises HarnessError with the nearest ids."""
    found = {_plain(one.id): one for one in table()}
    if _plain(fault) in found:
        return found[_plain(fault)]
    near = [one.id for key, one in found.items() if _plain(fault) in key]
    known = f"known are: {', '.join(near)}" if near else nearest(fault, [one.id for one in table()])
    raise HarnessError(f"{fault!r} is no known fault; {known}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def exposures(setup: Setup) -> list[Exposure]:
    """What `setup` is exposed to, one answer per fault that settings decide. HarnessError for a bad configuration."""
    check(setup)
    return [_expose(fault, setup) for fault in table() if fault.of_settings]


def _expose(fault: Fault, setup: Setup) -> Exposure:
    asks, elsewhere, set_otherwise = _facts(fault, setup)
    answer, reason, way_out = _answer(fault, setup, list(asks.values()), elsewhere, set_otherwise)
    return Exposure(
        fault=fault.id,
        plain=fault.plain,
        exposed=answer,
        reason=reason,
        way_out=way_out.format(events="event" if setup.hpz > 1 else "zero3") if way_out else "",
        asks=tuple(asks) if answer == "unknown" else (),
        harm=fault.harm,
        sure=fault.sure,
        source=fault.source,
    )


def _answer(
    fault: Fault, setup: Setup, asked: list[str], elsewhere: list[str], set_otherwise: list[str]
) -> tuple[Answer, str, str]:
    """Answer, reason and way out (empty where there is nothing to do)."""
    if elsewhere:
        return "not applicable", elsewhere[0], ""
    outside = setup.release is not None and not fault.within(setup)
    if not fault.examined:
        if asked or set_otherwise or outside:
            return "not applicable", (set_otherwise + asked + [_elsewhere(fault, setup)])[0], ""
        return "not examined", fault.why, fault.way_out
    if outside:
        return _of_release(fault, setup)
    if set_otherwise:
        return "safe by setting", set_otherwise[0], ""
    answer, reason = JUDGES[fault.judge](setup, fault.why) if fault.judge else ("yes", fault.why)
    if answer not in ("yes", "unknown"):
        return answer, reason, ""
    return "unknown" if asked else answer, "; ".join([reason, *asked]), fault.way_out


def _facts(fault: Fault, setup: Setup) -> tuple[dict[str, str], list[str], list[str]]:
    """What to ask for, what says that it cannot be here at all, and what says that settings keep it away."""
    asks: dict[str, str] = {}
    elsewhere: list[str] = []
    set_otherwise: list[str] = []
    if setup.release is None and fault.windows and fault.windows != ((FIRST, NEWEST),):
        asks["release"] = f"give --release: {_elsewhere(fault, setup)}"
    for name, wanted in fault.when.items():
        fact = FACTS[name]
        value = fact.read(setup)
        if value is None:
            asks[name] = fact.ask
        elif value not in (wanted if isinstance(wanted, list) else [wanted]):
            (elsewhere if fact.scope else set_otherwise).append(fact.said(value))
    if fault.torch and setup.torch is None and setup.release and not setup.within(fault.torch_since, None):
        set_otherwise.append(
            f"torch {fault.torch} is years newer than {setup.release}; give --torch if you have it"
        )
    elif fault.torch and setup.torch is None:
        asks["torch"] = f"it shows with torch {fault.torch} or later: give --torch"
    elif fault.torch and version_key(setup.torch or "") < version_key(fault.torch):
        set_otherwise.append(f"torch {setup.torch} does not show it, {fault.torch} and later do")
    return asks, elsewhere, set_otherwise


def _of_release(fault: Fault, setup: Setup) -> tuple[Answer, str, str]:
    """The answer for a release that does not have the fault."""
    if setup.within("0", "0.9.99"):
        if fault.when.get("hpz") == "on":
            return "not applicable", f"{setup.release} has no hpZ, which came with {FIRST}", ""
        return "not examined", f"releases before {FIRST} were not looked at", ""
    return "safe by release", f"{setup.release} does not have it; {_elsewhere(fault, setup)}", ""


def _elsewhere(fault: Fault, setup: Setup) -> str:
    """Which releases have it, and why this one, between them, does not."""
    windows = " and ".join(in_words(*window) for window in fault.windows)
    gap = [f": {reason}" for first, last, reason in fault.gaps if setup.release and setup.within(first, last)]
    return f"{windows} do" + "".join(gap)


def in_words(first: str, last: str) -> str:
    """A window as text."""
    if last == NEWEST:
        return f"{first} and later"
    return first if first == last else f"before {FIRST}" if first == "0.0.0" else f"{first} to {last}"


def worst_first(found: list[Exposure]) -> list[Exposure]:
    """By harm, then by whether others have met it; else in the order of the table."""
    harms = ("wrong", "stops", "slow", "no effect")
    return sorted(found, key=lambda one: (not named(one.fault).confirmed, harms.index(one.harm)))
