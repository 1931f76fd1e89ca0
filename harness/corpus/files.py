"""Documents of local files: text, JSON lines, Parquet; each also packed by gzip, zstd or bzip2, but for Parquet.

A JSON line and a row of Parquet are a document. A text file has none: it is cut at line ends into documents of 64 KiB,
so that many cores can share it and a share of it can be held out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from harness.corpus.records import Source
from harness.system.errors import HarnessError

Kind = Literal["text", "lines", "parquet"]
KINDS: dict[str, Kind] = {
    ".txt": "text",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".json": "lines",
    ".parquet": "parquet",
}
PACKED = (".gz", ".zst", ".bz2")
DOCUMENT_BYTES = 1 << 16  # of a text file
PARTS = 512  # of a large source
PART_BYTES = 2 << 20, 256 << 20  # of a part, least and most


@dataclass(frozen=True)
class Piece:
    """A stretch of one file: bytes `start` to `end`, of Parquet its row groups; None: to the end."""

    file: Path
    start: int
    end: int | None
    bytes: int  # of the file, for progress


Part = tuple[Piece, ...]  # what one worker makes a shard of


def local_files(source: Source) -> list[Path]:
    """The files of a source in a fixed order; empty where they are not on this machine (as of a Hub name).

    Of a folder, those whose names say that they are text, JSON lines or Parquet; of `hub` all of them.
    """
    path = Path(source.path)
    if path.is_dir():
        inside = (file for file in path.rglob("*") if file.is_file() and not _hidden(file, path))
        return sorted(file for file in inside if source.kind == "hub" or _suffix(file) in KINDS)
    if source.kind == "file" and any(mark in source.path for mark in "*?[") and not path.exists():
        pattern = path.absolute().relative_to("/").as_posix()
        return sorted(file for file in Path("/").glob(pattern) if file.is_file())
    return [path] if path.is_file() else []


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def kind_of(file: Path) -> Kind:
    """How a file is read; what is neither JSON lines nor Parquet by its name is text."""
    return KINDS.get(_suffix(file), "text")


def _suffix(file: Path) -> str:
    """The suffix below a compression's: `.jsonl` of `a.jsonl.gz`."""
    return (file.with_suffix("") if _packed(file) else file).suffix.lower()


def _packed(file: Path) -> bool:
    return file.suffix.lower() in PACKED


def parts_of(files: list[Path], size: int | None = None) -> list[Part]:
    """Pieces in order, in parts of about `size` bytes, by default as the files' size says. Raises HarnessError."""
    if size is None:
        least, most = PART_BYTES
        size = min(most, max(least, sum(file.stat().st_size for file in files) // PARTS))
    parts: list[Part] = []
    gathered: list[Piece] = []
    held = 0
    for piece in (piece for file in files for piece in _pieces(file, size)):
        gathered.append(piece)
        held += piece.bytes
        if held >= size:
            parts.append(tuple(gathered))
            gathered, held = [], 0
    return parts + ([tuple(gathered)] if gathered else [])


def _pieces(file: Path, size: int) -> list[Piece]:
    whole = file.stat().st_size
    if kind_of(file) == "parquet":
        groups = max(1, _open_parquet(file).num_row_groups)
        return [Piece(file, group, group + 1, whole // groups) for group in range(groups)]
    if _packed(file):
        return [Piece(file, 0, None, whole)]
    return [
        Piece(file, start, min(start + size, whole), min(size, whole - start))
        for start in range(0, whole, size)
    ]


def documents(part: Part, text_column: str) -> Iterator[str]:
    """The texts of a part, none of them empty. Raises HarnessError naming file and place."""
    for piece in part:
        read = {"text": _text, "lines": _lines, "parquet": _rows}[kind_of(piece.file)]
        try:
            for text in read(piece, text_column):
                if text:
                    yield text
        except OSError as error:
            raise HarnessError(
                f"{piece.file}: cannot be read ({error.strerror or error}); mend the file or leave it out"
            ) from error


def _text(piece: Piece, _: str) -> Iterator[str]:
    gathered, first = bytearray(), piece.start
    for start, line in _raw_lines(piece):
        if not gathered:
            first = start
        gathered += line
        if len(gathered) >= DOCUMENT_BYTES:
            yield _decoded(bytes(gathered), piece.file, first)
            gathered.clear()
    yield _decoded(bytes(gathered), piece.file, first)


def _lines(piece: Piece, text_column: str) -> Iterator[str]:
    for start, line in _raw_lines(piece):
        if not line.strip():
            continue
        where = f"{piece.file}: byte {start}"
        try:
            record = json.loads(_decoded(line, piece.file, start))
        except json.JSONDecodeError as error:
            raise HarnessError(f"{where}: not a line of JSON ({error.msg}); mend the line") from error
        if not isinstance(record, dict):
            raise HarnessError(f"{where}: no object with a column {text_column!r}; mend the line")
        yield text_of(record, text_column, where)


def text_of(record: dict[str, Any], column: str, where: str) -> str:
    """The text of a record. Raises HarnessError where the column is missing or holds no text."""
    if column not in record:
        raise HarnessError(f"data.text_column: {where}: no column {column!r}; it has {', '.join(record)}")
    text = record[column]
    if not isinstance(text, str):
        raise HarnessError(
            f"{where}: column {column!r} holds {str(text)[:40]!r}, not text; leave the row out"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise HarnessError(
            f"{where}: half of a surrogate pair, which is no text; leave the row out"
        ) from error
    return text


def _raw_lines(piece: Piece) -> Iterator[tuple[int, bytes]]:
    """Each line that begins inside the piece, and where; of a packed file, where in what it unpacks to."""
    with _opened(piece.file) as stream:
        at = piece.start
        if at:  # the line that holds the byte before begins in another piece
            stream.seek(at - 1)
            at += len(stream.readline()) - 1
        while (piece.end is None or at < piece.end) and (line := stream.readline()):
            yield at, line
            at += len(line)


def _opened(file: Path) -> BinaryIO:
    if not _packed(file):
        return file.open("rb")
    import io

    import pyarrow

    stream: BinaryIO = io.BufferedReader(pyarrow.input_stream(str(file), compression="detect"), 1 << 20)
    return stream


def _decoded(content: bytes, file: Path, start: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HarnessError(
            f"{file}: byte {start + error.start} is not UTF-8 text; convert the file or leave it out"
        ) from error


def _rows(piece: Piece, text_column: str) -> Iterator[str]:
    import pyarrow

    parquet = _open_parquet(piece.file)
    names = parquet.schema_arrow.names
    if text_column not in names:
        raise HarnessError(
            f"data.text_column: {piece.file}: no column {text_column!r}; it has {', '.join(names)}"
        )
    row = 0
    try:
        groups = range(piece.start, min(piece.end or 0, parquet.num_row_groups))
        for batch in parquet.iter_batches(batch_size=1024, row_groups=groups, columns=[text_column]):
            for text in batch.column(0).to_pylist():
                where = f"{piece.file}: row {row} of group {piece.start}"
                yield text_of({text_column: text}, text_column, where)
                row += 1
    except pyarrow.ArrowException as error:
        raise HarnessError(f"{piece.file}: damaged ({_first_line(error)}); fetch it again") from error


def _open_parquet(file: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowException as error:
        raise HarnessError(f"{file}: not a Parquet file ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
