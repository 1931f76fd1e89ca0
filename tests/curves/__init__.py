"""Curves of known origin, healthy and faulty, on which triage is measured; `python -m tests.curves.make` trains them."""
