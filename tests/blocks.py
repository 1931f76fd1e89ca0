"""The blocks of README and docs as sybil finds them: files to be saved, commands to be run, and what they print.

A block of `python`, `json`, `yaml`, `text` or another language with `title="NAME"` is a file that the reader saves, a
`diff` with a title an edit of one. A block of `sh` is run, in the folder where those files lie; the `text` block behind
it is what it prints, where a line of `…` stands for any lines. A block whose first line is one of NOT_RUN needs what a
test has not: its commands and the files that it names are looked up instead.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sybil.document import Document
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from harness.system.places import REPOSITORY

PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "slurm/README.md", "patches/README.md")),
    *(
        REPOSITORY / name
        for name in ("patches/upstream/README.md", "experiments/data/README.md", "ARTIFACT.md")
    ),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
NOT_RUN = (
    "# takes minutes",
    "# needs a cluster",
    "# needs a GPU",
    "# needs root",
    "# needs the network",
    "# with files of yours",
    "# in your training's environment",
)
INFO = re.compile(r"(?P<language>[\w-]*)(?: title=\"(?P<title>[^\"]+)\")?[ \t]*$\n?", re.MULTILINE)
SHELL = ("sh", "bash", "shell", "console")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    title: str | None
    text: str

    @property
    def is_run(self) -> bool:
        return self.language in SHELL and not self.text.lstrip().startswith(NOT_RUN)

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in its order."""
    document = Document(page.read_text(), str(page))
    found = RawFencedCodeBlockLexer(INFO)(document)
    return [
        Block(
            page,
            document.text.count("\n", 0, region.start) + 1,
            region.lexemes["language"],
            region.lexemes["title"],
            str(region.lexemes["source"]),
        )
        for region in sorted(found, key=lambda region: region.start)
    ]


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a shell block as words, without comments, substitutions, redirections and settings."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split = True
        words: list[str] = []
        skip = False
        for word in lexer:
            if skip:
                skip = False
            elif set(word) <= set("|&;()"):
                yield from _command(words)
                words = []
            elif set(word) <= set("<>"):
                skip = True
            else:
                words.append(word)
        yield from _command(words)


def _command(words: list[str]) -> Iterator[list[str]]:
    while words and re.fullmatch(r"[A-Z_]+=.*|\$", words[0]):
        words = words[1:]
    if words:
        yield words


def matches(shown: str, printed: str) -> bool:
    """Whether a text is what was printed, with `…` for any lines, or in a line for any rest."""
    parts = [
        r"(?:.*\n)*?" if line.strip() == "…" else _line(line) + "\n" for line in shown.rstrip().splitlines()
    ]
    return re.fullmatch("".join(parts), printed.rstrip() + "\n") is not None


def _line(line: str) -> str:
    text, rest = (line[:-1], ".*") if line.endswith("…") else (line, "")
    return re.escape(text.rstrip()) + rest + r"[ \t]*"
