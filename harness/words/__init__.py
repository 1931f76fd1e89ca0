"""The words of this project in plain language: what `hpz explain`, the glossary and the report say of them."""

from harness.words.words import WORDS, counted, explained, meaning

__all__ = ["WORDS", "counted", "explained", "meaning"]
