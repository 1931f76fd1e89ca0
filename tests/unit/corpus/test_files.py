"""Documents of files: each of them once, however a file is shared out, and bad ones named with their place."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.corpus.files import DOCUMENT_BYTES, documents, local_files, parts_of
from harness.system.errors import HarnessError
from tests.unit.corpus.conftest import source_of


def read(path: Path, size: int | None = None, column: str = "text") -> list[str]:
    return [text for part in parts_of(local_files(source_of(path)), size) for text in documents(part, column)]


def lines_of(texts: list[str], column: str = "text") -> str:
    return "".join(json.dumps({column: text}) + "\n" for text in texts)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1)), size=st.integers(1, 200))
def test_each_line_is_read_once_however_the_file_is_cut(text: Path, texts: list[str], size: int) -> None:
    file = text / "a.jsonl"
    file.write_text(lines_of(texts))
    assert read(file, size) == texts


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.text(st.characters(codec="utf-8")), size=st.integers(1, 50))
def test_a_text_is_read_whole_however_it_is_cut(text: Path, content: str, size: int) -> None:
    file = text / "a.txt"
    file.write_text(content, newline="")
    assert "".join(read(file, size)) == content


def test_a_long_text_is_cut_at_line_ends(text: Path) -> None:
    (text / "a.txt").write_text("a line of text\n" * 20_000)
    found = read(text / "a.txt")
    assert len(found) == 5 and all(part.endswith("\n") for part in found)
    assert all(DOCUMENT_BYTES <= len(part) < DOCUMENT_BYTES + 100 for part in found[:-1])


def test_parquet_that_pandas_wrote_gives_a_document_a_row(text: Path) -> None:
    rows = [f"document {n}" for n in range(5000)]
    pd.DataFrame({"text": rows, "stars": range(5000)}).to_parquet(text / "a.parquet", row_group_size=700)
    assert read(text, size=1) == rows


def test_packed_files_are_unpacked(text: Path) -> None:
    rows = ["one\n", "two\u2028", "three"]
    (text / "a.jsonl.gz").write_bytes(gzip.compress(lines_of(rows).encode()))
    (text / "b.jsonl.bz2").write_bytes(bz2.compress(lines_of(rows).encode()))
    with pa.output_stream(str(text / "c.jsonl.zst"), compression="zstd") as stream:
        stream.write(lines_of(rows).encode())
    assert read(text, size=1) == rows * 3


def test_a_folder_gives_what_is_text_by_its_name_in_order(text: Path) -> None:
    for name in ("b/two.txt", "a/one.txt", "b/image.png", ".git/three.txt", "b/NOTES"):
        (text / name).parent.mkdir(exist_ok=True)
        (text / name).write_text(name)
    assert read(text) == ["a/one.txt", "b/two.txt"]


def test_a_glob_takes_whatever_it_names_as_text(text: Path) -> None:
    for name in ("one.py", "two.py", "three.txt"):
        (text / name).write_text(name)
    assert read(text / "*.py") == ["one.py", "two.py"]


def test_empty_documents_and_lines_are_passed_over(text: Path) -> None:
    (text / "a.jsonl").write_text(lines_of(["a", "", "b"]) + "\n \n" + lines_of(["c"]))
    (text / "b.txt").write_text("")
    assert read(text) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": }\n',
            r"a\.jsonl: byte 14: not a line of JSON \(Expecting value\)",
        ),
        ("a.jsonl", b"[1]\n", r"a\.jsonl: byte 0: no object with a column 'text'"),
        ("a.jsonl", b'{"body": "a"}\n', r"data\.text_column: .*byte 0: no column 'text'; it has body"),
        ("a.jsonl", b'{"text": null}\n', r"byte 0: column 'text' holds 'None', not text; leave the row out"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"byte 0: half of a surrogate pair"),
        ("a.txt", b"abc\xff", r"a\.txt: byte 3 is not UTF-8 text; convert the file or leave it out"),
        ("a.jsonl.gz", b"not packed", r"a\.jsonl\.gz: cannot be read"),
        ("a.parquet", b"not parquet", r"a\.parquet: not a Parquet file"),
    ],
)
def test_bad_text_is_named_with_its_place(text: Path, name: str, content: bytes, message: str) -> None:
    (text / name).write_bytes(content)
    with pytest.raises(HarnessError, match=message):
        read(text / name)


def test_parquet_without_the_column_or_with_a_row_without_text_is_named(text: Path) -> None:
    pd.DataFrame({"body": ["a"], "text": [None]}).to_parquet(text / "a.parquet")
    with pytest.raises(HarnessError, match=r"a\.parquet: row 0 of group 0: column 'text' holds 'None'"):
        read(text)
    with pytest.raises(
        HarnessError, match=r"data\.text_column: .*a\.parquet: no column 'prose'; it has body"
    ):
        read(text, column="prose")


def test_damaged_parquet_is_named(text: Path) -> None:
    pa.parquet.write_table(pa.table({"text": [f"row {n}" * 50 for n in range(1000)]}), text / "a.parquet")
    content = bytearray((text / "a.parquet").read_bytes())
    content[4:400] = b"x" * 396
    (text / "a.parquet").write_bytes(content)
    with pytest.raises(HarnessError, match=r"a\.parquet: (damaged|cannot be read)"):
        read(text)
