"""`python -m harness.manual [FOLDER]`: write the generated reference pages, by default into docs/reference."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.manual.pages import pages

if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text)
        print(folder / name)
