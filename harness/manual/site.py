"""Hooks of mkdocs (mkdocs.yml): README is the first page, and what pages link to outside docs/ goes with the site.

In the clone a link leads to a file beside docs/; the site has no such neighbours. Other pages of the clone therefore
become pages of the site, other files are copied into it, and a link to a folder becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(!?)\[([^]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
BADGES = re.compile(r"^\[?!\[[^]]*\]\(\S*(?:img\.shields\.io|badge\.svg)\S*\)(?:\]\(\S*\))?\n", re.MULTILINE)
OUTSIDE = {  # page of the clone → page of the site
    "README.md": "index.md",
    "slurm/README.md": "howto/slurm.md",
    "patches/README.md": "reference/patches.md",
    "patches/upstream/README.md": "reference/upstream.md",
    "experiments/data/README.md": "reference/data.md",
    "tests/matrix.md": "reference/matrix.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "ARTIFACT.md": "artifact.md",
    "LICENSES.md": "licences.md",
}
FOLDERS = {  # in the order of the navigation; a page that is not named follows by its name
    "tutorial": ("Tutorial", ("first-verdict", "a-race-of-your-own")),
    "howto": ("How to…", ("am-i-exposed", "fix-it-now", "triage-a-curve", "scripts", "regenerate-the-paper")),
    "explanation": ("Explanation", ("the-race", "two-faults", "virtual-streams", "happens-before")),
    "reference": ("Reference", ("commands", "study", "profile", "glossary", "faults", "releases")),
}
LAST = ("artifact.md", "reading-order.md", "contributing.md", "changelog.md", "licences.md")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and files outside docs/, and set the navigation."""
    for source, target in outside().items():
        files.append(File.generated(config, target, content=_text(source)))
    for path in sorted(linked_files()):
        files.append(File.generated(config, f"files/{path}", abs_src_path=str(ROOT / path)))
    config.nav = navigation([file.src_uri for file in files.documentation_pages()])
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at where their targets lie on the site."""
    return rewritten(markdown, page.file.src_uri)


def outside() -> dict[str, str]:
    return {source: target for source, target in OUTSIDE.items() if (ROOT / source).is_file()}


def navigation(pages: list[str]) -> list[Any]:
    nav: list[Any] = ["index.md"]
    for folder, (title, first) in FOLDERS.items():
        named = [f"{folder}/{name}.md" for name in first]
        found = sorted(page for page in pages if page.startswith(f"{folder}/"))
        nav.append(
            {title: sorted(found, key=lambda page: named.index(page) if page in named else len(named))}
        )
    return [*nav, {"Development": [page for page in LAST if page in pages]}]


def linked_files() -> set[str]:
    """Files of the clone, other than pages, that some page links to."""
    found = set[str]()
    origins = {target: source for source, target in outside().items()}
    pages = [
        *origins,
        *(page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")),
    ]
    for page in pages:
        rewritten(_text(origins.get(page, f"docs/{page}")), page, found.add)
    return found


def _text(source: str) -> str:
    """A page of the clone without its badges, which lie on the network."""
    return BADGES.sub("", (ROOT / source).read_text())


def rewritten(markdown: str, page: str, copied: Callable[[str], None] = lambda path: None) -> str:
    """The text of a page with its links as the site has them; `copied` hears of each file that has to go along."""
    origin = {target: source for source, target in outside().items()}.get(page, f"docs/{page}")

    def link(match: re.Match[str]) -> str:
        image, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        if (ROOT / path).is_dir():
            return text
        if path.startswith("docs/") and path.endswith(".md"):
            there = path.removeprefix("docs/")
        elif path in outside():
            there = OUTSIDE[path]
        else:
            if (ROOT / path).is_file():
                copied(path)
            there = f"files/{path}"
        return f"{image}[{text}]({posixpath.relpath(there, posixpath.dirname(page) or '.')}{anchor})"

    return LINK.sub(link, markdown)
