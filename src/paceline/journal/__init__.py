"""The memory: decisions, appended and never rewritten; the Plan and its reasons are their fold.

Start with `journal.py`, which everybody calls; `sqlite.py` is the file beneath it.
"""
