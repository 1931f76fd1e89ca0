"""Reference results of a corpus of faults: corpus.json, and the replay of every fault that was found."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.race.fault_pairs import Pairs
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY

NAME = "corpus.json"


def keep_corpus(folder: Path, target: Path | None = None) -> Path:
    """Copy them to `target` (default: results/reference/corpus). Raises HarnessError where a pair is not good."""
    target = target or REPOSITORY / "results" / "reference" / "corpus"
    pairs = Pairs.model_validate_json((folder / NAME).read_text())
    bad = [pair.name for pair in pairs.pairs if not pair.good]
    if bad:
        raise HarnessError(
            f"{folder}: {len(bad)} of {len(pairs.pairs)} pairs are missed or wrong, the first is {bad[0]}; mend the "
            "corpus or the analysis first"
        )
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copyfile(folder / NAME, target / NAME)
    for pair in pairs.pairs:
        if pair.has.replay is not None:
            (target / pair.name).mkdir()
            shutil.copyfile(folder / pair.has.replay, target / pair.has.replay)
    return target
