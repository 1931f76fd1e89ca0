"""Reading a YAML file that a person wrote: every way in which it can be no mapping of keys gets its sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from harness.system.errors import HarnessError


def read_keys(file: Path, hint: str) -> dict[str, Any]:
    """The keys of a YAML file; `hint` says what to give instead. Raises HarnessError naming the file."""
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise HarnessError(f"{file}: cannot be read ({error.strerror}); {hint}") from error
    except UnicodeDecodeError as error:
        raise HarnessError(f"{file}: not text in UTF-8; {hint}") from error
    except yaml.YAMLError as error:
        raise HarnessError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise HarnessError(f"{file}: holds no keys; {hint}")
    return content
