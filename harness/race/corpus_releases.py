"""Fetches the releases of a corpus, for a machine without network: `python -m harness.race.corpus_releases FOLDER`.

With the archives beside the wheels of `make wheelhouse`, pip finds both there.
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness.race.fault import load_corpus
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.variants.archive import download

CORPUS = REPOSITORY / "experiments" / "corpus"


def releases_of(corpus: Path) -> list[str]:
    """Every release of which a side of a fault is made."""
    sides = (side for case in load_corpus(corpus) for side in (case.fault.has, case.fault.ended))
    return sorted({side.release for side in sides if side is not None})


def main(folder: Path) -> int:
    """Fetch those of the shipped corpus that are not there; 1 where one cannot be had."""
    folder.mkdir(parents=True, exist_ok=True)
    for release in releases_of(CORPUS):
        if list(folder.glob(f"deepspeed-{release}.tar.gz")):
            continue
        try:
            print(download(release, folder).name, flush=True)
        except HarnessError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
