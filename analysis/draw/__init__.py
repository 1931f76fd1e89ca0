"""From verdicts to figures, each beside the table it is drawn from; `analysis.draw.drawing` draws all of a study.

Its modules import matplotlib, so this file imports none of them.
"""
