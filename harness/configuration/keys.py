"""DeepSpeed's keys: which there are in a release, what becomes of one that is none, and values as DeepSpeed takes them.

An unknown key in `zero_optimization` ends training before its first step; one at the top level is ignored without a
word, and so the feature that it should switch on is off. Either way it is named here with the nearest right one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from harness.configuration.remarks import Remark
from harness.system.errors import HarnessError
from harness.variants.families import version_key

AUTO = "auto"  # what a Hugging Face integration fills in; DeepSpeed itself leaves such a key out
NEAR = 0.75  # similarity from which on a key is taken for a misspelt one
FEW = 3
PLACEHOLDER = re.compile(r"[$<{%].*|[A-Z][A-Z0-9_]+")  # of a template, as a script fills in
DECIDE = ("zero_optimization.stage", "zero_optimization.zero_hpz_partition_size")
NO_KEY = " is no key of DeepSpeed, which ignores it"
COMMENT = ("_", "#", "//", "$", "comment")
PREFIX = "stage3_"  # DeepSpeed takes these keys without it, too
TRUE, FALSE = ("true", "yes", "on", "1", "t", "y"), ("false", "no", "off", "0", "f", "n")
FLAGS = {"cpu_offload": "offload_optimizer", "cpu_offload_param": "offload_param"}
RENAMED = {
    "stage3_gather_fp16_weights_on_model_save": "stage3_gather_16bit_weights_on_model_save",
    "bfloat16": "bf16",
}


@dataclass(frozen=True)
class Key:
    """One key of one section."""

    type: str
    since: str | None = None
    until: str | None = None

    def absent(self, release: str | None) -> str:
        """Why a release does not know it, in words; empty where it does, or where the release is not known."""
        number = version_key(release)[:3] if release else None
        if number and self.since and number < version_key(self.since):
            return f"came with {self.since}"
        return (
            f"was taken out after {self.until}"
            if number and self.until and number > version_key(self.until)
            else ""
        )


@dataclass(frozen=True)
class Section:
    keys: Mapping[str, Key]
    refuses: str | None
    """The release from which on an unknown key ends training; None where it never does."""

    def refuses_in(self, release: str | None) -> bool:
        return self.refuses is not None and (
            release is None or version_key(release)[:3] >= version_key(self.refuses)
        )


@lru_cache
def sections() -> dict[str, Section]:
    """Dotted path → its section; the top level is the empty path."""
    table = yaml.safe_load(Path(__file__).with_name("keys.yaml").read_text())
    return {
        path: Section(
            {
                name: Key(**one) if isinstance(one, dict) else Key(one)
                for name, one in content["keys"].items()
            },
            content.get("refuses"),
        )
        for path, content in table.items()
    }


@dataclass
class Checked:
    """A configuration as DeepSpeed takes it, and what is to be said of how it was written."""

    config: dict[str, Any]
    remarks: list[Remark] = field(default_factory=list)

    def say(self, kind: Any, key: str, text: str) -> None:
        self.remarks.append(Remark(kind, key, text))


def checked(config: Mapping[str, Any], release: str | None = None) -> Checked:
    """The configuration as DeepSpeed takes it. Raises HarnessError for a value that is of no use, with its key.

    A key that DeepSpeed ignores is left out; one that it refuses is read as it is meant, where that is clear. `release`
    is None where it is not known.
    """
    found = Checked({})
    found.config = _section("", config, release, found)
    return found


def _section(path: str, content: Mapping[str, Any], release: str | None, found: Checked) -> dict[str, Any]:
    section = sections()[path]
    result: dict[str, Any] = {}
    for key, value in content.items():
        name = _known(section, str(key))
        if name is None:
            name = _unknown(path, str(key), release, found, set(content))
        elif when := section.keys[name].absent(release):
            refused = section.refuses_in(release)
            what = "refuses it, and training does not start" if refused else "ignores it"
            text = f"{_dotted(path, name)} {when}; {release} {what}"
            found.say("refused" if refused else "ignored", _dotted(path, name), text)
        if name is not None and name not in result:
            result[name] = _value(path, name, section.keys[name].type, value, release, found)
    if not path:
        _many(found)
    return _without_old_names(path, result, found)


def _many(found: Checked) -> None:
    """Of a file with many keys that are none of DeepSpeed's, another framework's as well, one sentence is enough."""
    none = [one for one in found.remarks if one.kind == "ignored" and one.text.endswith(NO_KEY)]
    if len(none) > FEW:
        found.remarks = [one for one in found.remarks if one not in none]
        names = ", ".join(one.key for one in none[:FEW])
        found.say(
            "ignored",
            none[0].key,
            f"{len(none)} keys ({names}, …) are none of DeepSpeed's, which ignores them",
        )


def _known(section: Section, key: str) -> str | None:
    return next((name for name in (key, PREFIX + key) if name in section.keys), None)


def _unknown(path: str, key: str, release: str | None, found: Checked, present: set[Any]) -> str | None:
    """Says what becomes of a key that is none here; the key it is read as, where training would not start with it."""
    section, where = sections()[path], f" in {path}" if path else ""
    refused = section.refuses_in(release)
    if not refused and key.lower().startswith(COMMENT):
        return None
    what = "DeepSpeed refuses it, and training does not start" if refused else "DeepSpeed ignores it"
    kind = "refused" if refused else "ignored"
    homes = [home for home, other in sections().items() if home != path and _known(other, key)]
    if homes:
        home = _home(homes, path)
        place = f"belongs into {home}" if home else "belongs to the top level"
        found.say(
            kind, _dotted(path, key), f"{key} stands{where or ' at the top level'}, where {what}; it {place}"
        )
        return None
    near = _nearest(key, section, path)
    if near is None:
        found.say(
            kind,
            _dotted(path, key),
            f"{_dotted(path, key)}{NO_KEY}"
            if not refused
            else f"{_dotted(path, key)} is no key of DeepSpeed: {what}",
        )
        return None
    home, name = near
    meant = _dotted(home, name)
    found.say(
        kind,
        _dotted(path, key),
        f"{_dotted(path, key)} is no key of DeepSpeed: {what}; did you mean {meant}?",
    )
    return name if refused and home == path and name not in present else None


def _home(homes: list[str], path: str) -> str:
    """The section that a key most likely belongs to: one within this one, else the first."""
    return next((home for home in homes if path and home.startswith(path)), homes[0])


def _nearest(key: str, section: Section, path: str) -> tuple[str, str] | None:
    """Section and name of the nearest key: of this section, else of any."""
    plain = key.lower().replace("-", "_")
    for home, names in ((path, section.keys), *((home, other.keys) for home, other in sections().items())):
        close = difflib.get_close_matches(plain, names, n=1, cutoff=NEAR)
        part = [
            name
            for name in names
            if len(plain) >= 5 and (plain in name or (len(name) >= 8 and name in plain))
        ]
        if close or len(part) == 1:
            return home, close[0] if close else part[0]
    return None


def _without_old_names(path: str, result: dict[str, Any], found: Checked) -> dict[str, Any]:
    for old, new in RENAMED.items():
        if old in result:
            found.say("legacy", _dotted(path, old), f"{old} is the old name of {new}, and read as that")
            result.setdefault(new, result.pop(old))
    for old, new in FLAGS.items():
        if (value := result.pop(old, None)) is not None:
            found.say("legacy", _dotted(path, old), f"{old} is the old form of {new}, and read as that")
            if value is True:
                result.setdefault(new, {"device": "cpu"})
    return result


# --- values --------------------------------------------------------------------------------------------------------


def _value(path: str, name: str, kind: str, value: Any, release: str | None, found: Checked) -> Any:
    """A value as DeepSpeed takes it: numbers and truth values may be text. Raises HarnessError naming the key."""
    key = _dotted(path, name)
    if key == "zero_optimization" and isinstance(value, bool | int):
        stage = int(value)
        found.say("legacy", key, f"{key}: {value!r} is the form of old; it means stage {min(stage, 1)}")
        return {"stage": min(stage, 1)}
    if (
        value is None
        or (value == AUTO and kind not in ("object", "any"))
        or (value == AUTO and key != "zero_optimization")
    ):
        return value
    if kind == "object" or key in sections():
        if not isinstance(value, Mapping):
            raise HarnessError(f"config: {key} must be an object, not {value!r}")
        return _inner(key, value, release, found)
    if kind == "int":
        return _whole(key, value, found)
    if kind == "float":
        return _real(key, value)
    return _truth(key, value) if kind == "bool" else value


def _inner(key: str, value: Mapping[str, Any], release: str | None, found: Checked) -> dict[str, Any]:
    if key in sections():
        return _section(key, value, release, found)
    below = {path.removeprefix(f"{key}."): path for path in sections() if path.startswith(f"{key}.")}
    result = dict(value)
    for name, path in below.items():
        if result.get(name) is not None:
            if not isinstance(result[name], Mapping):
                raise HarnessError(f"config: {path} must be an object, not {result[name]!r}")
            result[name] = _section(path, result[name], release, found)
    return result


def _whole(key: str, value: Any, found: Checked) -> int | str:
    """A whole number: 8, 8.0, "8", 5e7; of "5e7", which DeepSpeed refuses, that is said."""
    if isinstance(value, str) and PLACEHOLDER.fullmatch(value.strip(" ,\"'")):
        if key in DECIDE:
            raise HarnessError(
                f"config: {key} is {value!r}, a placeholder; put in the number that training has"
            )
        found.say("auto", key, f"{key} is {value!r}, a placeholder, and not known here")
        return AUTO
    try:
        number = float(value) if not isinstance(value, str) else float(value.strip().replace("_", ""))
        whole = int(number)
    except (TypeError, ValueError, OverflowError):
        raise HarnessError(f"config: {key}={value!r} must be a whole number") from None
    if whole != number:
        raise HarnessError(f"config: {key}={value!r} must be a whole number")
    if isinstance(value, str) and "e" in value.lower():
        found.say("refused", key, f"{key} is the text {value!r}: DeepSpeed refuses it; leave out the quotes")
    return whole


def _real(key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise HarnessError(f"config: {key}={value!r} must be a number") from None


def _truth(key: str, value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in (*TRUE, *FALSE, "1.0", "0.0"):
        raise HarnessError(f"config: {key}={value!r} must be true or false")
    return word in (*TRUE, "1.0")


def _dotted(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
