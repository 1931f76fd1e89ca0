"""What a corpus is made of, and what it holds: records that are written as JSON beside its shards."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT = 1  # of shards and of how text is cut; a new one makes every corpus anew
Dtype = Literal["uint16", "uint32"]


class Frozen(BaseModel):
    """Base of the records: immutable, and a key that is not known is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Source(Frozen):
    """Text and tokenizer, as a study names them."""

    kind: Literal["file", "hub"]
    path: str  # a file, a folder or a glob; of hub: a name or a folder
    name: str | None = None  # configuration of a Hub dataset
    split: str = "train"
    revision: str | None = None
    text_column: str = "text"
    tokenizer: str | None = None  # folder or Hub name; None: bytes
    validation_fraction: float = Field(default=0.005, ge=0, lt=1)  # share of the documents
    max_tokens: int | None = Field(default=None, ge=1)  # stop once the training part has as many
    root: str | None = None  # folder of corpora; None: in the cache

    @cached_property
    def request(self) -> str:
        """Identifies what was asked for, whatever it holds and wherever the corpus is kept."""
        asked = self.model_dump(mode="json", exclude={"root"})
        return _digest([FORMAT, asked])

    def key(self, texts: list[list[str]], tokenizer: str) -> str:
        """Identifies the tokens before there are any: from the text's and the tokenizer's hashes."""
        rules = self.model_dump(mode="json", exclude={"root", "path", "tokenizer", "revision"})
        return _digest([FORMAT, rules, texts, tokenizer])


class TokenizerInfo(Frozen):
    """The tokenizer of a corpus."""

    name: str
    sha256: str
    vocabulary: int  # every id is smaller
    separator: int  # the id that ends each document


class Shard(Frozen):
    """One array of token ids, little-endian, without a header."""

    file: str
    tokens: int
    sha256: str


class Corpus(Frozen):
    """The index of a corpus, written last: without it there is none."""

    schema_version: Literal[1] = 1
    content: str  # identifies every token of it
    key: str
    source: Source
    source_files: int | None  # None: a dataset of the Hub
    source_bytes: int | None
    tokenizer: TokenizerInfo
    dtype: Dtype
    documents: int
    held_out_documents: int
    train: tuple[Shard, ...]
    held_out: tuple[Shard, ...]

    @property
    def shards(self) -> tuple[Shard, ...]:
        return self.train + self.held_out

    @property
    def train_tokens(self) -> int:
        return sum(shard.tokens for shard in self.train)

    @property
    def held_out_tokens(self) -> int:
        return sum(shard.tokens for shard in self.held_out)


def content_hash(dtype: Dtype, tokenizer: TokenizerInfo, train: list[Shard], held_out: list[Shard]) -> str:
    """The hash of all tokens, of which part each is, and of what they mean."""
    parts = [[[shard.tokens, shard.sha256] for shard in part] for part in (train, held_out)]
    return _digest([FORMAT, dtype, tokenizer.sha256, *parts])


def smallest_dtype(vocabulary: int) -> Dtype:
    return "uint16" if vocabulary <= 1 << 16 else "uint32"


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
