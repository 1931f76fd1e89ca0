"""Documents of a dataset of the Hugging Face Hub, or of a folder that `datasets` can load, by streaming.

The dataset's own files are its parts: each worker streams some of them, so that nothing is downloaded whole.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.corpus.files import text_of
from harness.corpus.records import Source
from harness.system.errors import HarnessError

SAVED_ROWS = 50_000  # of a part of a folder that `datasets` saved


@dataclass(frozen=True)
class HubPart:
    """One of the files of a dataset."""

    number: int
    of: int


def hub_parts(source: Source) -> list[HubPart]:
    """One for each file of the dataset. Raises HarnessError where it cannot be had."""
    count = _open(source).num_shards
    return [HubPart(number, count) for number in range(count)]


def revision_of(source: Source) -> str:
    """The commit of a dataset of the Hub, so that all workers, today and tomorrow, read the same. HarnessError."""
    try:
        from huggingface_hub import HfApi

        return str(HfApi().dataset_info(source.path, revision=source.revision).sha)
    except Exception as error:  # of its network library, which changes from release to release
        raise _cannot_be_had(source, error) from error


def hub_documents(source: Source, part: HubPart) -> Iterator[str]:
    """The texts of a part, none of them empty. Raises HarnessError naming dataset and row."""
    stream = _open(source).shard(num_shards=part.of, index=part.number)
    where = f"{source.path} ({source.split}), part {part.number}"
    rows = enumerate(_read(source, stream))
    for row, record in rows:
        if text := text_of(record, source.text_column, f"{where}, row {row}"):
            yield text


def _read(source: Source, stream: Any) -> Iterator[dict[str, Any]]:
    try:
        yield from stream
    except HarnessError:
        raise
    except Exception as error:  # of any of the libraries that read the Hub's formats
        raise _cannot_be_had(source, error) from error


def _open(source: Source) -> Any:
    try:
        from datasets import load_dataset, load_from_disk
        from tqdm import tqdm

        tqdm.set_lock(threading.RLock())  # one between processes would outlive a worker that is stopped
        folder = Path(source.path)
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            saved = load_from_disk(source.path)  # as Dataset.save_to_disk wrote it
            saved = saved[source.split] if hasattr(saved, "keys") else saved
            return saved.to_iterable_dataset(num_shards=1 + saved.num_rows // SAVED_ROWS)
        return load_dataset(
            source.path, source.name, split=source.split, revision=source.revision, streaming=True
        )
    except ImportError as error:
        raise HarnessError(
            "data.hub: needs `datasets`, which is not installed here; install this package with its [train] extra"
        ) from error
    except Exception as error:
        raise _cannot_be_had(source, error) from error


def _cannot_be_had(source: Source, error: Exception) -> HarnessError:
    reason = " ".join(str(error).split())[:200].rstrip(". ") or type(error).__name__
    return HarnessError(
        f"data.path: dataset {source.path!r} (split {source.split!r}) could not be read ({reason}); run again where "
        "the Hub can be reached, or give a folder that `datasets` can load"
    )
