"""Which results are committed: `analysis.reference.keep` copies what a report needs and refuses what nobody could redo.

Its module imports matplotlib, so this file does not import it.
"""
