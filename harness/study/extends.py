"""`extends:` of a study file: what it takes over from another file, and by which rules.

Mappings are merged key by key, to any depth; everything else (numbers, texts, lists, the whole `matrix`) is replaced by
what the extending file says, and `null` takes a key away, so that its default holds. A base may extend another. Paths
under `data`, `simulate.hardware` and the folder `models/` are meant from the file that holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.system.errors import HarnessError
from harness.system.secrets import refuse_secrets
from harness.system.yaml_file import read_keys

KEY = "extends"
PATHS = (
    *(("data", key) for key in ("path", "file", "hub", "tokenizer", "prepared")),
    ("simulate", "hardware"),
)


def read_extended(file: Path, advice: str) -> tuple[dict[str, Any], list[Path]]:
    """The keys of a study file with those of its bases under them, and the folders of all files, its own first.

    Raises HarnessError naming the file.
    """
    return _read(file, advice, ())


def _read(file: Path, advice: str, above: tuple[Path, ...]) -> tuple[dict[str, Any], list[Path]]:
    place = file.resolve()
    if place in above:
        chain = " → ".join(one.name for one in (*above, place))
        raise HarnessError(f"{above[-1]}: {KEY} goes round in a circle ({chain}); take one of them out")
    content = read_keys(file, advice)
    refuse_secrets(file, "what is resolved from it is kept with the results")
    base = content.pop(KEY, None)
    if base is None:
        return content, [file.parent]
    if not isinstance(base, str):
        raise HarnessError(
            f"{file}: {KEY} is {base!r}; give the path of one study file, from this file's folder"
        )
    if not (file.parent / base).is_file():
        raise HarnessError(
            f"{file}: {KEY} names no file {base!r} beside it; give a path from this file's folder"
        )
    below, folders = _read(file.parent / base, advice, (*above, place))
    return merged(_anchored(below, folders[0]), content), [file.parent, *folders]


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`: mappings key by key, `null` takes a key away, everything else replaces."""
    result = dict(below)
    for key, value in above.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(below.get(key), Mapping):
            result[key] = merged(below[key], value)
        else:
            result[key] = value
    return result


def _anchored(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The content with the paths that lie beside its file made absolute, so that they hold from any other."""
    for part, key in PATHS:
        table = content.get(part)
        path = table.get(key) if isinstance(table, dict) else None
        if isinstance(path, str) and (folder / path).exists():
            content = {**content, part: {**content[part], key: str((folder / path).resolve())}}
    return content
