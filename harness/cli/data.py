"""`hpz data`: prepare, verify and show the packed corpus that a study trains on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import progress as bars
from rich.console import Console

from harness.cli.options import JsonOption, StudyArgument
from harness.corpus import Corpus, check_shards, load_corpus, open_corpus, verify_shards
from harness.corpus.prepare import Progress, Watcher, prepare
from harness.corpus.store import INDEX
from harness.study import Data, Study, check_vocabulary, corpus_source, load_study
from harness.study.packed import check_corpus_fits
from harness.system.errors import HarnessError

app = typer.Typer(
    name="data",
    help="Text of your own as a packed corpus: prepare, verify, show.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

CorpusArgument = Annotated[
    Path, typer.Argument(metavar="STUDY", help="A study file, its results folder, or a corpus' own folder.")
]


@app.command("prepare")
def prepare_corpus(
    study_file: StudyArgument,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one for each core.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Tokenise a study's text into packed shards, once for all runs; go on where it was stopped.

    Example: hpz data prepare experiments/mine.yaml --workers 16
    """
    from harness.launch.local import terminate_on_sigterm

    study = load_study(study_file)
    data = _packed_data(study, study_file)
    terminate_on_sigterm()
    with _watched(quiet=as_json) as watch:
        done = prepare(
            corpus_source(data),
            workers=workers,
            watch=watch,
            check=lambda found: check_vocabulary(study, found.name, found.vocabulary),
        )
    if study.data.sha256 not in (None, done.corpus.content):
        raise HarnessError(
            f"data.sha256: {study_file} was planned with another corpus than {done.folder}, which its text makes "
            "now; put the old text back or run the study file anew"
        )
    if as_json:
        _print_json(_row(done.corpus, done.folder) | {"made": done.made, "kept": done.kept})
    else:
        _describe(done.corpus, done.folder)
        if not done.made and not done.kept:
            print("It was prepared before, and no shard has changed since.")
        elif done.kept:
            print(f"{done.kept} of its {done.made + done.kept} parts were finished before.")
    check_corpus_fits(load_study(study_file))


@app.command()
def verify(study_file: CorpusArgument, as_json: JsonOption = False) -> None:
    """Hash every shard of a corpus and compare. Example: hpz data verify experiments/mine.yaml"""
    corpus, folder = _found(study_file)
    verify_shards(corpus, folder)
    check_shards(corpus, folder)
    if as_json:
        _print_json({"folder": str(folder), "content": corpus.content, "shards": len(corpus.shards)})
    else:
        print(f"{folder}: all {len(corpus.shards)} shards are as they were written")


@app.command()
def show(study_file: CorpusArgument, as_json: JsonOption = False) -> None:
    """Show what a corpus holds, and what a study's runs read of it. Example: hpz data show experiments/mine.yaml"""
    corpus, folder = _found(study_file)
    study = None if (study_file / INDEX).exists() else load_study(study_file)
    reads = (
        max((run.training.steps * run.tokens_per_step for run in study.runs), default=0) if study else None
    )
    if as_json:
        _print_json(_row(corpus, folder) | {"read_by_longest_run": reads})
        return
    _describe(corpus, folder)
    if reads is not None:
        print(
            f"The longest run reads {reads:,} tokens, {reads / corpus.train_tokens:.3g} times the training text."
        )


def _packed_data(study: Study, file: Path) -> Data:
    if not study.data.packed:
        raise HarnessError(
            f"data.packed: {file} does not use a packed corpus, so there is nothing to prepare; say "
            "data: {file: YOUR_TEXT, packed: true}"
        )
    return study.data


def _found(path: Path) -> tuple[Corpus, Path]:
    """The corpus in a folder of its own, or of a study. Raises HarnessError."""
    if (path / INDEX).exists():
        return load_corpus(path), path
    data = _packed_data(load_study(path), path)
    if data.sha256 is None:
        raise HarnessError(
            f"data.path: {data.path} is not prepared, or has changed since; run `hpz data prepare {path}` first"
        )
    return open_corpus(data.prepared, data.sha256)


@contextmanager
def _watched(quiet: bool) -> Iterator[Watcher]:
    """A bar on standard error: how much is read, tokens and time."""
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TextColumn("{task.fields[tokens]}"),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), disable=quiet) as display:
        tasks: dict[str, bars.TaskID] = {}

        def watch(news: Progress) -> None:
            if news.what not in tasks:
                tasks[news.what] = display.add_task(news.what, total=news.total, tokens="")
            tokens = f"{news.tokens:,} tokens" if news.tokens else ""
            display.update(tasks[news.what], completed=news.done, total=news.total, tokens=tokens)

        yield watch


def _row(corpus: Corpus, folder: Path) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "content": corpus.content,
        "source": corpus.source.model_dump(mode="json", exclude={"root"}),
        "source_files": corpus.source_files,
        "source_bytes": corpus.source_bytes,
        "tokenizer": corpus.tokenizer.model_dump(mode="json"),
        "dtype": corpus.dtype,
        "documents": corpus.documents,
        "train_tokens": corpus.train_tokens,
        "held_out_documents": corpus.held_out_documents,
        "held_out_tokens": corpus.held_out_tokens,
        "shards": len(corpus.shards),
    }


def _describe(corpus: Corpus, folder: Path) -> None:
    tokenizer, files = corpus.tokenizer, corpus.source_files
    read = f" ({files:,} files, {corpus.source_bytes:,} bytes)" if files else ""
    print(f"Corpus    {folder}")
    print(f"Text      {corpus.source.path}{read}")
    print(
        f"Tokenizer {tokenizer.name}: {tokenizer.vocabulary:,} ids, documents end with {tokenizer.separator}"
    )
    print(
        f"Training  {corpus.train_tokens:,} tokens, {corpus.documents:,} documents, {len(corpus.train)} shards"
    )
    print(f"Held out  {corpus.held_out_tokens:,} tokens, {corpus.held_out_documents:,} documents")


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))
