"""Text to token ids: a Hugging Face tokenizer, or bytes, which need no vocabulary file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

from harness.system.errors import HarnessError


class Encoder(Protocol):
    """Text to token ids, without special tokens."""

    vocab_size: int  # every id is smaller

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[Sequence[int]]: ...

    @property
    def separator(self) -> int:
        """The token that ends a document. Raises HarnessError where the tokenizer has none."""
        ...

    @property
    def sha256(self) -> str:
        """Identifies how text becomes tokens."""
        ...


class Bytes:
    """A token a byte; documents end with the byte 0, which text has no use for, so that 256 ids are enough."""

    vocab_size = 256
    separator = 0
    sha256 = hashlib.sha256(b"bytes").hexdigest()

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[Sequence[int]]:
        return [text.encode() for text in texts]


class Tokenizer:
    """A Hugging Face tokenizer, by folder or Hub name. Raises HarnessError when it cannot be had."""

    def __init__(self, name: str) -> None:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise HarnessError(
                f"data.tokenizer: {name!r} needs transformers, which is not installed here; install this package with "
                "its [train] extra"
            ) from error
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
            raise HarnessError(
                f"data.tokenizer: {name!r} is no folder with a tokenizer and could not be had from the Hub "
                f"({reason}); download it where there is a network and give its folder"
            ) from error
        self.name = name
        self._fast: Any = getattr(self._tokenizer, "backend_tokenizer", None)  # None: one written in Python
        if self._fast is not None:  # what a tokenizer.json says of these is for one text at a time
            self._fast.no_truncation()
            self._fast.no_padding()
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values())  # ids may have holes

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def encode_batch(self, texts: Sequence[str]) -> list[Sequence[int]]:
        if self._fast is None:
            return [self.encode(text) for text in texts]
        # Without offsets into the text, which take a third of the time.
        encoded = self._fast.encode_batch_fast(list(texts), add_special_tokens=False)
        return [one.ids for one in encoded]

    @property
    def separator(self) -> int:
        if self._tokenizer.eos_token_id is None:
            raise HarnessError(
                f"data.tokenizer: {self.name!r} has no end token (eos_token), so documents could not be told apart; "
                "name one in its tokenizer_config.json"
            )
        return int(self._tokenizer.eos_token_id)

    @property
    def sha256(self) -> str:
        if self._fast is None:
            how = [type(self._tokenizer).__name__, sorted(self._tokenizer.get_vocab().items())]
        else:
            how = [self._fast.to_str()]
        named = [*how, self.separator]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def open_encoder(name: str | None) -> Encoder:
    """The tokenizer of that folder or Hub name, or bytes where none is named. Raises HarnessError."""
    return Tokenizer(name) if name else Bytes()
