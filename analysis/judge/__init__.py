"""From the tables to verdicts: which runs form a pair, what a pair shows, and what follows for variants and claims.

`analysis.judge.summary` puts all of it together as summary.json. Nothing here draws or writes prose.
"""

from analysis.judge.evidence import LEVELS, RANK, SOUND, ran, weaker

__all__ = ["LEVELS", "RANK", "SOUND", "ran", "weaker"]
