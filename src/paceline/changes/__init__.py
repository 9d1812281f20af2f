"""Whoever wants to change how something is served comes here: the only writer of Plans.

`decide.py` says what follows from a wish, or why it is refused; `desk.py` carries it out.
"""
