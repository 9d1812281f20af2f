"""Pure mechanisms that serving and the gateway both need; each is handed the time and does no I/O.

Not policies: which request matters and which error is worth a retry is decided where they are used.
"""
