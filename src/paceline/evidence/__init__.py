"""What can be known before it happens: traces of requests, and the simulator that serves them.

It changes nothing: `changes/` decides what follows from what is found here.
"""
