"""The `hpz` command: one file a family of verbs, and nothing else; no room knows of it."""
