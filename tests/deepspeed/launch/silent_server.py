"""A warm process that never gets ready, as one whose imports hang."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.stdin.read()
