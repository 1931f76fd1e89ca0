"""A study and its packed corpus: where it is, whether it is prepared, and whether it is enough for the runs."""

from __future__ import annotations

from pathlib import Path

from harness.corpus import (
    Corpus,
    Source,
    check_shards,
    find_corpus,
    find_folder,
    load_corpus,
    open_corpus,
    open_encoder,
)
from harness.study.models import parse_model
from harness.study.records import Data, Run
from harness.study.study import Study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY


def corpus_source(data: Data) -> Source:
    """What the corpus of packed data is made of."""
    assert data.path is not None and data.source in ("file", "hub")
    return Source(
        kind=data.source,
        path=data.path,
        name=data.name,
        split=data.split,
        revision=data.revision,
        text_column=data.text_column,
        tokenizer=data.tokenizer,
        validation_fraction=data.validation_fraction,
        max_tokens=data.max_tokens,
        root=data.prepared,
    )


def located_corpus(data: Data, file: Path) -> Data:
    """Packed data with paths resolved against the study file and, where it is prepared, its content's hash.

    A resolved study names the hash already, and is read on machines that have neither text nor corpus. HarnessError.
    """
    if not data.path:
        raise HarnessError(f"data.path: needed for packed data; give {data.source}: and where the text is")
    if data.sha256:
        return data
    here = file.absolute().parent
    path = _existing(data.path, here)
    if path is None and data.source == "file" and not any(mark in data.path for mark in "*?["):
        raise HarnessError(
            f"data.path: no file or folder {data.path!r} beside {file.name}; give a path that exists"
        )
    if path is None:
        path = data.path if data.source == "hub" else str(here / data.path)
    tokenizer = data.tokenizer and (_existing(data.tokenizer, here) or data.tokenizer)
    prepared = data.prepared and str(here / data.prepared)
    data = data.model_copy(update={"path": path, "tokenizer": tokenizer, "prepared": prepared})
    corpus = find_corpus(corpus_source(data))
    return data.model_copy(update={"sha256": corpus.content if corpus else None})


def _existing(path: str, here: Path) -> str | None:
    places = (here / path, REPOSITORY / path)
    return next((str(place.resolve()) for place in places if place.exists()), None)


def check_corpus(study: Study) -> None:
    """Refuse to start runs whose packed corpus is not prepared, not here or altered since. Raises HarnessError.

    Of text that is not packed, a tokenizer with more ids than a model has; where it cannot be had, the ranks will say.
    """
    if not study.data.packed:
        _check_tokenizer(study)
        return
    if study.data.sha256 is None:
        raise HarnessError(
            f"data.path: {study.data.path} is not prepared, or has changed since; run `hpz data prepare` with this "
            "study first"
        )
    check_shards(*open_corpus(study.data.prepared, study.data.sha256))


def check_corpus_fits(study: Study) -> None:
    """Refuse runs that their packed corpus cannot serve, as far as it is prepared and here. Raises HarnessError."""
    if not study.data.packed or study.data.sha256 is None:
        return
    folder = find_folder(study.data.prepared, study.data.sha256)
    if folder is None:
        return  # results are read on machines that need not have the text
    corpus = load_corpus(folder)
    check_vocabulary(study, corpus.tokenizer.name, corpus.tokenizer.vocabulary)
    for run in study.runs:
        check_tokens(run, corpus)


def _check_tokenizer(study: Study) -> None:
    if study.data.tokenizer:
        try:
            encoder = open_encoder(study.data.tokenizer)
        except HarnessError:
            return
        check_vocabulary(study, study.data.tokenizer, encoder.vocab_size)


def check_vocabulary(study: Study, tokenizer: str, ids: int) -> None:
    """Refuse a tokenizer with more ids than one of the study's models has. Raises HarnessError."""
    for name in sorted({run.model for run in study.runs}):
        size = parse_model(study.models[name], f"models.{name}").config.vocab_size
        if ids > size:
            raise HarnessError(
                f"data.tokenizer: {tokenizer!r} has {ids:,} token ids, and model {name} a "
                f"vocab_size of {size:,}; use the model's own tokenizer, or a model with a larger vocab_size"
            )


def check_tokens(run: Run, corpus: Corpus) -> None:
    """Refuse a run that would read more than the corpus holds. Raises HarnessError with both numbers."""
    training, length = run.training, run.training.sequence_length
    have = corpus.train_tokens // length * length
    needed = training.steps * run.tokens_per_step
    if have == 0:
        raise HarnessError(
            f"training.sequence_length: the corpus has {corpus.train_tokens:,} tokens to train on, fewer than a "
            f"sequence of {length:,}; prepare more text or take a shorter sequence"
        )
    if needed > have and not run.data.repeat:
        raise HarnessError(
            f"training.steps: {training.steps:,} steps of {run.tokens_per_step:,} tokens read {needed:,}, and the "
            f"corpus has {have:,} in whole sequences; take fewer steps, prepare more text, or set data.repeat: true"
        )
    asked = (
        training.validation_batches * training.micro_batch * run.shape.world_size
        if training.validate_every
        else 0
    )
    if asked * length > corpus.held_out_tokens:
        raise HarnessError(
            f"training.validation_batches: {asked:,} sequences of {length:,} tokens are asked for, and the corpus has "
            f"{corpus.held_out_tokens:,} held-out tokens; take fewer, or prepare again with a larger "
            "data.validation_fraction"
        )
