"""Reference pages of docs, written from what they describe: commands, keys, files, schemas, levels, words.

`python -m harness.manual` writes them into docs/reference; a test holds the committed pages equal to it.
"""

from harness.manual.pages import pages

__all__ = ["pages"]
