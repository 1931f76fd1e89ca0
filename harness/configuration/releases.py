"""DeepSpeed releases as people name them: 0.13.5+e1a2f3, v0.13.4, 13.4, a commit, a day; and what is unsure in that.

A build from DeepSpeed's sources calls itself by the *next* release: version.txt is raised right after a release. The
commits of all releases stand in `commits.txt`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from harness.system.errors import HarnessError
from harness.variants import supported_releases
from harness.variants.families import version_key

FIRST = "0.10.0"
"""The first release with ZeRO++, and so with hpZ."""
Origin = Literal["given", "installed", "log", "script", "commit", "date", ""]

WHOLE = re.compile(
    r"(?:deepspeed\s*(?:==|[ =@:])\s*)?v?(\d+)\.(\d+)\.(\d+)(?:[.\-_]?(?:post|rc|dev|a|b)\d*)?(?:\+([\w.\-]+))?",
    re.IGNORECASE,
)
SHORT = re.compile(r"v?(\d{1,2})\.(\d{1,2})")
COMMIT = re.compile(r"(?=.*\d)[0-9a-f]{6,40}")
DAY = re.compile(r"\d{4}-\d\d-\d\d")
NEWEST = ("latest", "newest", "main", "master", "nightly", "head")
LEAST_MINOR = 9  # 13.4 is 0.13.4: no release of DeepSpeed begins with a number above 0


@dataclass(frozen=True)
class Release:
    """A release as it is judged, and in a sentence what was made of what was given (empty where it is as given)."""

    name: str
    note: str = ""
    origin: Origin = "given"
    until: str | None = None
    """Of a commit: the first release that holds it; `name` is the last one before it."""


def named_release(text: str, origin: Origin = "given") -> Release:
    """The release that a text means. Raises HarnessError for what is none, with the nearest that are."""
    word = text.strip().strip("'\"").lower()
    if word in NEWEST:
        newest = supported_releases()[-1]
        return Release(newest, f"{text} is read as {newest}, the newest release that is known here", origin)
    if DAY.fullmatch(word):
        return _on_day(word)
    if found := WHOLE.fullmatch(word):
        return _whole(word, found, origin)
    if found := SHORT.fullmatch(word):
        return _short(text, found, origin)
    if COMMIT.fullmatch(word):
        return _of_commit(word)
    raise HarnessError(
        f"release: {text!r} is not a version such as 0.13.4, a commit of DeepSpeed or a day such as 2024-02-26"
    )


def _whole(word: str, found: re.Match[str], origin: Origin) -> Release:
    name = f"{found[1]}.{found[2]}.{found[3]}"
    build = found[4]
    if build is None or not COMMIT.fullmatch(build) or name not in supported_releases():
        return Release(name, f"{word} is judged as {name}" if build else "", origin)
    if (place := _commit(build)) is not None:
        return _at(build, *place, shown=word)
    before = _before(name)
    note = (
        f"{word} is a build of commit {build}, which is not known here; DeepSpeed's sources call themselves {name} "
        f"from {before} on, so it lies between the two and is judged as {before}"
    )
    return Release(before, note, "commit", name)


def _short(text: str, found: re.Match[str], origin: Origin) -> Release:
    first, second = int(found[1]), int(found[2])
    if first >= LEAST_MINOR:
        name = f"0.{first}.{second}"
        return Release(name, f"{text} is read as {name}", origin)
    of_minor = [one for one in supported_releases() if one.startswith(f"{first}.{second}.")]
    if not of_minor:
        raise HarnessError(f"release: {text!r} is not a version such as 0.13.4; give all three numbers")
    raise HarnessError(
        f"release: {text!r} may be any of {of_minor[0]} to {of_minor[-1]}; give all three numbers"
    )


def _of_commit(word: str) -> Release:
    place = _commit(word)
    if place is None:
        raise HarnessError(
            f"release: no commit of DeepSpeed known here begins with {word}; give its day instead, such as 2024-02-26"
        )
    return _at(word, *place, shown=f"commit {word}")


def _at(commit: str, release: str, day: str, shown: str) -> Release:
    if release == "newer":
        newest = _days()[-1][1]
        return Release(newest, f"{shown} is of {day}, after {newest}; judged as {newest}", "commit")
    if _last_of(release).startswith(commit[:8]):
        return Release(release, f"{shown} is the commit of {release}", "commit")
    before = _before(release)
    note = (
        f"{shown} is of {day}, between {before} and {release}, and is judged as {before}; what {release} changed may "
        "be in it or not"
    )
    return Release(before, note, "commit", release)


def _on_day(day: str) -> Release:
    days = _days()
    index = bisect_right([date for date, _ in days], day) - 1
    if index < 0:
        raise HarnessError(f"release: on {day} DeepSpeed had no ZeRO++; it came with {FIRST}")
    name = days[index][1]
    until = days[index + 1][1] if index + 1 < len(days) else None
    since = f"sources of that day may hold what {until} changed" if until else "newer ones may have been out"
    return Release(name, f"on {day} the newest release was {name}; {since}", "date", until)


def _before(release: str) -> str:
    older = [one for _, one in _days() if version_key(one) < version_key(release)]
    return max(older, key=version_key) if older else release


@lru_cache
def _commits() -> tuple[tuple[str, str, str], ...]:
    """First digits of a commit, its release (or `newer`) and its day."""
    found: list[tuple[str, str, str]] = []
    release = ""
    for line in Path(__file__).with_name("commits.txt").read_text().splitlines():
        words = line.split()
        if words[0] == "=":
            release = words[1]
        elif words[0] != "#":
            found += [(commit, release, words[0]) for commit in words[1:]]
    return tuple(found)


def _commit(word: str) -> tuple[str, str] | None:
    """Release and day of the commit that begins so, where it is one; None for none and for several."""
    word = word.removeprefix("g")
    places = {(release, day) for commit, release, day in _commits() if commit.startswith(word[:8])}
    return places.pop() if len(places) == 1 else None


def _last_of(release: str) -> str:
    """The commit that was released."""
    return [commit for commit, of, _ in _commits() if of == release][-1]


@lru_cache
def _days() -> tuple[tuple[str, str], ...]:
    """Day and name of each release, oldest first."""
    lines = Path(__file__).with_name("commits.txt").read_text().splitlines()
    heads = [line.split() for line in lines if line.startswith("= ")]
    return tuple((words[2], words[1]) for words in heads if len(words) == 3)


def no_zeropp(release: str) -> str:
    """A sentence for a release before ZeRO++; empty for others."""
    if version_key(release)[:3] >= version_key(FIRST):
        return ""
    return f"{release} has no ZeRO++ (it came with {FIRST}) and refuses zero_hpz_partition_size: upgrade"
