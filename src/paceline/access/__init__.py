"""Who may call: client keys, page sessions, and the gate every request passes.

Not the place where requests are answered (`web/`) nor where keys are typed (`cli/key.py`).
"""
