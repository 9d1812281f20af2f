"""Recording: what happens in each process, as counts, as lines, and as the machine sees it.

Values and files only; nobody here judges what is recorded (`watch/`) or remembers it (`journal/`).
"""
