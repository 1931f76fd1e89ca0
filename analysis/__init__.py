"""Collected runs become verdicts, figures and the report; reads results only."""
