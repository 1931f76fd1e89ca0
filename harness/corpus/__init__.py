"""Corpora for pretraining: text of any size, tokenised once into packed shards that every rank maps.

A corpus is a folder, named by the hash of its content, with an index and plain arrays of token ids; it knows nothing of
studies. Torch is not needed here, and transformers only to open a tokenizer.
"""

from harness.corpus.encoder import Bytes, Encoder, open_encoder
from harness.corpus.order import permuted
from harness.corpus.records import Corpus, Shard, Source, TokenizerInfo
from harness.corpus.store import (
    check_shards,
    corpus_folder,
    find_corpus,
    find_folder,
    load_corpus,
    open_corpus,
    verify_shards,
)
from harness.corpus.tokens import Tokens, open_tokens

__all__ = [
    "Bytes",
    "Corpus",
    "Encoder",
    "Shard",
    "Source",
    "TokenizerInfo",
    "Tokens",
    "check_shards",
    "corpus_folder",
    "find_corpus",
    "find_folder",
    "load_corpus",
    "open_corpus",
    "open_encoder",
    "open_tokens",
    "permuted",
    "verify_shards",
]
