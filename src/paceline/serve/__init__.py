"""The serving plane: models, what they take and give, and the two JSON forms of a request.

Admission, batching and worker processes join it later. It reads and writes no sockets; `web/`
does. Nothing is imported here, so that a process which serves nothing loads no numpy.
"""
