"""Curves of known origin, healthy and faulty, for measuring triage; `python -m tests.curves.make` trains them."""
