"""Every bound on a queue, body, retry or wait, in one place; shown in docs/reference/limits.md.

What a limit protects is said beside it. A part that needs a new bound names it here first.
"""

import msgspec


class Limit(msgspec.Struct, frozen=True):
    name: str
    value: float
    unit: str
    meaning: str


BODY_BYTES = 64 * 1024
ROWS = 1024
HEAD_BYTES = 64 * 1024
HEAD_S = 10.0
KEEP_ALIVE_S = 75
IN_FLIGHT = 1024
DEADLINE_S = 30.0
KEYS = 500
KEY_FILE_BYTES = 1024 * 1024
SESSION_S = 12 * 3600
LOG_SITE_LINES = 10
LOG_WINDOW_S = 10.0
LOG_SITES = 512
LOG_CHARS = 8192
LOG_FIELDS = 64
LOG_SECRETS = 1000
SERIES_PER_PROCESS = 512
LINK_MESSAGE_BYTES = 128 * 1024
LINK_BACKLOG = 256
PARKED_CONNECTIONS = 1024
PARK_S = 5.0
PAGE_STREAMS = 64
PAGE_TICK_S = 1.0
RELAY_CHUNK_BYTES = 64 * 1024
RELAY_S = 2.0
RESTART_FIRST_S = 0.1
RESTART_MOST_S = 5.0
RESTART_STEADY_S = 10.0
PING_S = 1.0
HANG_S = 5.0
START_S = 60.0
FLUSH_S = 0.3
FRONTS = 8
CONNECTION_BACKLOG = 2048

LIMITS: tuple[Limit, ...] = (
    Limit(
        "BODY_BYTES",
        BODY_BYTES,
        "bytes",
        "a request body; parsing one this large holds the event loop for less than 2 ms",
    ),
    Limit("ROWS", ROWS, "rows", "rows in one inference request"),
    Limit("HEAD_BYTES", HEAD_BYTES, "bytes", "a request's line and headers together"),
    Limit("HEAD_S", HEAD_S, "s", "how long line and headers may take to arrive"),
    Limit(
        "KEEP_ALIVE_S",
        KEEP_ALIVE_S,
        "s",
        "how long a connection may stay open between two requests",
    ),
    Limit(
        "IN_FLIGHT",
        IN_FLIGHT,
        "requests",
        "requests one front holds at once; one more is answered 503 `overloaded`",
    ),
    Limit(
        "DEADLINE_S",
        DEADLINE_S,
        "s",
        "how long a request without a timeout of its own may take, its body's arrival included",
    ),
    Limit("KEYS", KEYS, "keys", "keys in the key file"),
    Limit("KEY_FILE_BYTES", KEY_FILE_BYTES, "bytes", "the key file; a longer one is not ours"),
    Limit("SESSION_S", SESSION_S, "s", "how long a login of the page lasts"),
    Limit(
        "LOG_SITE_LINES",
        LOG_SITE_LINES,
        "lines",
        "lines that one place in the code logs within LOG_WINDOW_S; more are counted",
    ),
    Limit(
        "LOG_WINDOW_S",
        LOG_WINDOW_S,
        "s",
        "after this time such a place may log again, and the count is told",
    ),
    Limit(
        "LOG_SITES", LOG_SITES, "places", "places in the code counted at once; the oldest gives way"
    ),
    Limit(
        "LOG_CHARS",
        LOG_CHARS,
        "characters",
        "one message, field or traceback in the log; the rest is cut",
    ),
    Limit("LOG_FIELDS", LOG_FIELDS, "fields", "fields of one line, and elements of one field"),
    Limit(
        "LOG_SECRETS",
        LOG_SECRETS,
        "values",
        "secrets the log is told to hide; registering one more is a bug",
    ),
    Limit(
        "SERIES_PER_PROCESS",
        SERIES_PER_PROCESS,
        "series",
        "label combinations one process may record; more are counted as dropped",
    ),
    Limit("LINK_MESSAGE_BYTES", LINK_MESSAGE_BYTES, "bytes", "one message between owner and front"),
    Limit(
        "LINK_BACKLOG",
        LINK_BACKLOG,
        "messages",
        "messages that wait for a process that does not read; then it counts as hung",
    ),
    Limit(
        "PARKED_CONNECTIONS",
        PARKED_CONNECTIONS,
        "connections",
        "connections the owner keeps while no front is ready; one more is answered 503",
    ),
    Limit("PARK_S", PARK_S, "s", "how long such a connection waits before it is answered 503"),
    Limit("PAGE_STREAMS", PAGE_STREAMS, "streams", "live pages open at once"),
    Limit("PAGE_TICK_S", PAGE_TICK_S, "s", "how often a live page gets new numbers"),
    Limit(
        "RELAY_CHUNK_BYTES",
        RELAY_CHUNK_BYTES,
        "bytes",
        "one piece of an answer relayed from the owner",
    ),
    Limit(
        "RELAY_S",
        RELAY_S,
        "s",
        "how long a front waits for the owner to begin its answer",
    ),
    Limit(
        "RESTART_FIRST_S",
        RESTART_FIRST_S,
        "s",
        "wait before the second restart of a process that keeps dying; doubles each time",
    ),
    Limit("RESTART_MOST_S", RESTART_MOST_S, "s", "the longest such wait"),
    Limit(
        "RESTART_STEADY_S",
        RESTART_STEADY_S,
        "s",
        "a process that lived this long is restarted at once",
    ),
    Limit("PING_S", PING_S, "s", "how often the owner asks a front whether its loop turns"),
    Limit("HANG_S", HANG_S, "s", "a front silent for so long is killed and restarted"),
    Limit(
        "START_S", START_S, "s", "a front that is not ready after so long is killed and restarted"
    ),
    Limit(
        "FLUSH_S", FLUSH_S, "s", "how long a last answer may take to be read at the end of a drain"
    ),
    Limit(
        "FRONTS", FRONTS, "processes", "the most fronts that are started without being asked for"
    ),
    Limit(
        "CONNECTION_BACKLOG",
        CONNECTION_BACKLOG,
        "connections",
        "connections the kernel holds until a front accepts them",
    ),
)
