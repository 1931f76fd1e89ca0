"""What must reach no file of ours: tokens, keys and passwords, told by names of variables and the look of values.

The one place that decides. `hidden` cleans text, `without_secrets` an environment, `secrets_in` names what is found.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

from harness.system.errors import HarnessError

HIDDEN = "[hidden]"
SHORTEST = 8  # a shorter value of a variable is not looked for in text: it would hide common words
CODE = (".py", ".pyi", ".patch", ".diff", ".j2", ".md", ".ipynb", ".sh", ".def")

# The last word of a part of a variable's name: API_KEY, APIKEY, GITHUB_TOKEN, PGPASSWORD, SLURM_JWT; no TOKENIZERS.
_NAME = re.compile(
    r"(TOKENS?|KEYS?|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|CREDENTIALS?|APIKEYS?|JWT|COOKIE|SSHPASS|AUTHORIZATION"
    r"|CONNECTION_STRING|DSN)(_ID|_BASE64|_B64|_VALUE|_\d+)?$|(SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIALS?)_|_AUTH(_CONFIG)?$",
    re.IGNORECASE,
)
_AWS = re.compile(r"AWS_(?!(DEFAULT_)?(REGION|OUTPUT)$|PROFILE$|OFI_|EC2_METADATA)", re.IGNORECASE)
_HARMLESS = re.compile(r"(TOKENS_PER|PAD_TOKEN|[EBS]OS_TOKEN|UNK_TOKEN|_FILE$|_PATH$|_SOCK$)", re.IGNORECASE)

# Values that are secret whatever they are called.
_SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}\b"  # Hugging Face
    r"|\bgh[opusr]_[A-Za-z0-9]{20,}\b|\bgithub_pat_[A-Za-z0-9_]{20,}\b|\bglpat-[\w-]{20,}"
    r"|\bwandb_v\d+_[A-Za-z0-9_]{20,}\b"
    r"|\bsk-[A-Za-z0-9_-]{20,}|\bxox[abeoprs]-[A-Za-z0-9-]{10,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_-]{35}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*"  # a JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)
# One of these stands in every such value; to look for them first is ten times as fast.
_MARKS = (
    *("hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "wandb_v"),
    *("sk-", "xox", "AKIA", "ASIA", "AIza", "eyJ", "PRIVATE"),
)
_URL = re.compile(
    r"(?P<before>\b[a-z][a-z0-9+.-]*://)(?P<secret>[^\s/:@'\"<>{}$]*:[^\s/@'\"<>{}$]+)(?=@)", re.IGNORECASE
)
_BEARER = re.compile(
    r"(?P<before>\bauthorization['\"]?\s*[:=]\s*['\"]?(?:bearer|basic|token)\s+)(?P<secret>[\w.~+/=-]{8,})",
    re.IGNORECASE,
)

# wandb's keys look like a commit: 40 hex digits are one unless the line speaks of commits.
_HEX = re.compile(r"(?<![\w/@.-])[0-9a-f]{40}(?![\w.])")
_OF_COMMITS = re.compile(
    r"commit|index |\bsha|hash|revision|\brev\b|digest|\btree\b|parent|HEAD|ref", re.IGNORECASE
)

# NAME=value and NAME: value, --name value, "name": "value"; a value that the shell is still to work out is none.
_ASSIGNED = re.compile(
    r"\b(?P<variable>[A-Z][A-Z0-9_]{2,})(?:=|:[ ]*)['\"]?(?P<value>(?![$`(])[^\s'\";,]{6,})"
    r"|(?<!\S)--(?P<option>[a-z][a-z0-9-]+)[ =]['\"]?(?P<given>(?![$`(])[^\s'\";,]{6,})"
    r"|(?P<quote>['\"])(?P<key>[A-Za-z][\w-]+)(?P=quote)\s*[:=]\s*(?P<mark>['\"])(?P<said>[^'\"\n]{6,})(?P=mark)"
)
_KINDS = (("variable", "value"), ("option", "given"), ("key", "said"))
_NUMBER = re.compile(r"[\d.,eE+-]+|true|false|null|none", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A secret in a text: which line (from 1), and what told it, without the secret itself."""

    line: int
    what: str


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret, whatever its value: HF_TOKEN, WANDB_API_KEY, AWS_…"""
    if _HARMLESS.search(name):
        return False
    return bool(_NAME.search(name.replace("-", "_")) or _AWS.match(name))


def is_secret(name: str, value: str) -> bool:
    """Whether a variable is secret by its name, or its value by its look."""
    commit = _OF_COMMITS.search(name)
    return (
        is_secret_name(name)
        or bool(_SHAPES.search(value) or _URL.search(value) or _BEARER.search(value))
        or bool(_HEX.fullmatch(value) and not commit)
    )


def without_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that may be written down, sorted by name."""
    return {name: value for name, value in sorted(variables.items()) if not is_secret(name, value)}


def secrets_in(
    text: str, variables: Mapping[str, str] | None = None, *, code: bool = False
) -> Iterator[Found]:
    """What of a text is secret. `variables` (default: ours) are those whose secret values must not stand in it.

    Of `code`, where a name may well be given a value that is none, only what is secret whatever it is called.
    """
    for start, _, what in _spans(text, variables, code):
        yield Found(text.count("\n", 0, start) + 1, what)


def hidden(text: str, variables: Mapping[str, str] | None = None, *, code: bool = False) -> str:
    """The text with every secret replaced by [hidden]; the rest as it was. Arguments as those of `secrets_in`."""
    parts, at = [], 0
    for start, end, _ in _spans(text, variables, code):
        parts += [text[at:start], HIDDEN]
        at = end
    return "".join([*parts, text[at:]]) if parts else text


def _spans(text: str, variables: Mapping[str, str] | None, code: bool = False) -> list[tuple[int, int, str]]:
    """Where secrets stand, in order and without overlap, and what told each."""
    found: list[tuple[int, int, str]] = []
    if any(mark in text for mark in _MARKS):
        found += [(*m.span(), f"{m[0][:4]}…") for m in _SHAPES.finditer(text)]
    if "://" in text:
        found += [(*m.span("secret"), "a URL with a password") for m in _URL.finditer(text)]
    for name, value in _secret_values(variables):
        found += [(m.start(), m.end(), f"the value of {name}") for m in re.finditer(re.escape(value), text)]
    if not code:
        found += [(*m.span("secret"), "an authorization") for m in _BEARER.finditer(text)]
        found += _assigned(text)
        found += [
            (*m.span(), "40 hex digits") for m in _HEX.finditer(text) if not _of_commits(text, m.start())
        ]
    kept: list[tuple[int, int, str]] = []
    for start, end, what in sorted(found, key=lambda span: (span[0], -span[1])):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end, what))
    return kept


def _assigned(text: str) -> Iterator[tuple[int, int, str]]:
    for match in _ASSIGNED.finditer(text):
        name, value = next((name, value) for name, value in _KINDS if match[name])
        if is_secret_name(match[name]) and not _NUMBER.fullmatch(match[value]):
            yield (*match.span(value), match[name])


def _of_commits(text: str, at: int) -> bool:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return bool(_OF_COMMITS.search(line))


def _secret_values(variables: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    given = os.environ if variables is None else variables
    return _values(
        tuple(sorted((k, v) for k, v in given.items() if is_secret_name(k) and len(v) >= SHORTEST))
    )


@lru_cache(maxsize=8)
def _values(named: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((n, value) for n, value in named if not _NUMBER.fullmatch(value) and value[0] not in "/~.")


def refuse_secrets(file: Path, what_then: str) -> None:
    """HarnessError where a text file that is copied into what we write holds a secret; `what_then` says why not."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError):
        return
    if found := next(secrets_in(text, code=file.suffix in CODE), None):
        raise HarnessError(
            f"{file}: line {found.line} holds what looks like a secret ({found.what}), and {what_then}; take it out "
            "and export it in the shell that starts this, where ranks find it"
        )


def veil_output() -> None:
    """Hide secrets in whatever Python prints from here on."""
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), Veiled):
            setattr(sys, name, cast(Any, Veiled(stream)))


class Veiled:
    """A text stream that hides secrets in whatever is written to it; all else is the stream's own."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(hidden(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
