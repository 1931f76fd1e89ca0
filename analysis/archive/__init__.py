"""A study in one file for a reviewer: results, code, logs, environment and hashes, as an RO-Crate.

`contents` says what goes in, `logs` makes logs short, `pack` writes the file, `unpack` checks and opens it.
"""
