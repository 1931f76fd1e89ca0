"""From verdicts and figures to what is read: the page (`analysis.page.report`), text for papers, tables for a terminal.

Its modules import matplotlib, so this file imports none of them.
"""
