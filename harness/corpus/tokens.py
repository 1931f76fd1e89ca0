"""The tokens of a corpus as one long array that is mapped, not read: any stretch of it costs the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.corpus.records import Corpus, Dtype, Shard


@dataclass(frozen=True)
class Tokens:
    """Shards end to end; each is mapped when it is first read."""

    folder: Path
    shards: tuple[Shard, ...]
    dtype: Dtype

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """`count` tokens from `start`, which may span shards; both must lie inside."""
        found = np.empty(count, dtype=np.int64)
        number = int(np.searchsorted(self._starts, start, side="right")) - 1
        filled = 0
        while filled < count:
            inside = start + filled - int(self._starts[number])
            piece = self._map(number)[inside : inside + count - filled]
            found[filled : filled + piece.size] = piece
            filled += piece.size
            number += 1
        return found

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        """Where each shard begins, and where the last one ends."""
        return np.cumsum([0, *(shard.tokens for shard in self.shards)])

    @cached_property
    def _maps(self) -> dict[int, npt.NDArray[np.unsignedinteger]]:
        return {}

    def _map(self, number: int) -> npt.NDArray[np.unsignedinteger]:
        if number not in self._maps:
            file = self.folder / self.shards[number].file
            self._maps[number] = np.memmap(file, dtype=np.dtype(self.dtype).newbyteorder("<"), mode="r")
        return self._maps[number]


def open_tokens(corpus: Corpus, folder: Path, held_out: bool = False) -> Tokens:
    """The training tokens of a corpus that lies in `folder`, or the held-out ones."""
    return Tokens(folder, corpus.held_out if held_out else corpus.train, corpus.dtype)
