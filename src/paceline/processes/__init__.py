"""Child processes and what ties them to their parent: spawning, links, restarts, workers, the state
lock.

Nothing here knows what a process is for; `web/` runs fronts with it, `serve/` models, and `serve/`
and `gateway/` those that parse long bodies.
"""
