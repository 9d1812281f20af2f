"""Child processes and what ties them to their parent: spawning, links, restarts, the state lock.

Nothing here knows what a process is for; `web/` runs fronts with it, and later `serve/` models.
"""
