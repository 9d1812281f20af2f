"""The log of every process: short lines for people, JSON lines for machines, no secrets in either.

It stands on the standard library's logging, so that what asyncio and other libraries say
goes the same way. Each process calls `setup` once; everybody else writes

    log = get("paceline.serve")
    log.info("model loaded", model="digits", rows=3)

A line never raises, never waits for its reader (what a stalled reader misses is counted), and is
not repeated without end. Not a store of decisions (`journal/`), not a metric (`board.py`).
"""

import logging
import os
import re
import select
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, TextIO, get_args

import msgspec

from paceline.observe.redact import Redactor
from paceline.terms.errors import BadSetting
from paceline.terms.limits import LOG_SITE_LINES, LOG_SITES, LOG_WINDOW_S

Format = Literal["console", "json"]
Level = Literal["debug", "info", "warning", "error"]

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Set by a front around each request; every line written meanwhile carries it."""

ACCESS = "paceline.access"
"""The logger with one line per request: silent unless asked for, and then never thinned out."""

PIPE_BYTES = 4096  # a pipe that polls as writable takes this much without blocking


class Log:
    """A named logger whose lines take fields: `log.warning("slow", model="m", wait_ms=31)`."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, message: str, /, **fields: object) -> None:
        self._write(logging.DEBUG, message, fields)

    def info(self, message: str, /, **fields: object) -> None:
        self._write(logging.INFO, message, fields)

    def warning(self, message: str, /, **fields: object) -> None:
        self._write(logging.WARNING, message, fields)

    def error(self, message: str, /, **fields: object) -> None:
        self._write(logging.ERROR, message, fields)

    def exception(self, message: str, /, **fields: object) -> None:
        """An error, with the traceback of the exception being handled."""
        self._write(logging.ERROR, message, fields, with_traceback=True)

    @property
    def is_on(self) -> bool:
        """Whether `info` would write anything: for those who would otherwise prepare it in vain."""
        logger = self._logger
        return not logger.disabled and logger.isEnabledFor(logging.INFO)

    @property
    def debugs(self) -> bool:
        """The same of `debug`."""
        return self._logger.isEnabledFor(logging.DEBUG)

    def _write(
        self, level: int, message: str, fields: dict[str, object], with_traceback: bool = False
    ) -> None:
        if self._logger.isEnabledFor(level):
            extra = {"fields": fields}
            self._logger.log(level, message, exc_info=with_traceback, extra=extra, stacklevel=3)


def get(name: str) -> Log:
    return Log(logging.getLogger(name))


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line, without secrets. Its fields are those of a JSON line, in this order."""

    ts: datetime
    level: str
    process: str
    logger: str
    msg: str
    request_id: str | None = None
    fields: dict[str, object] = {}
    exception: list[str] = []


def as_console(line: Line) -> str:
    """For people. A traceback is indented, so that no text inside it can pass for a line."""
    time = line.ts.astimezone().strftime("%H:%M:%S.%f")[:-3]
    message = line.msg if line.logger.startswith("paceline") else f"{line.logger}: {line.msg}"
    words = [f"{time} {line.level:<7} {line.process:<7} {message}"]
    words += [f"{name}={_plain(value)}" for name, value in line.fields.items()]
    if line.request_id is not None:
        words.append(f"[{line.request_id}]")
    return "\n    | ".join(_escape(part) for part in ("  ".join(words), *line.exception))


def as_json(line: Line) -> str:
    """For machines: one object, one line."""
    return _escape(msgspec.json.encode(line).decode())


_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def _escape(text: str) -> str:
    """Whatever could start a line, move a cursor or turn the writing around, made visible. The
    form is JSON's own, so that it may be applied to JSON too."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def _plain(value: object) -> str:
    """A field's value, quoted only where it would otherwise run into its neighbours."""
    if isinstance(value, str) and re.fullmatch(r"[^\s\"'=]+", value):
        return value
    return msgspec.json.encode(value).decode()


class Repeated(msgspec.Struct):
    """What one place in the code has logged since `since_s`."""

    since_s: float
    logger: str
    level: str
    message: str
    lines: int = 0

    @property
    def suppressed(self) -> int:
        return max(0, self.lines - LOG_SITE_LINES)


class Thinning:
    """Lets the first LOG_SITE_LINES of each place in the code pass in any LOG_WINDOW_S."""

    def __init__(self) -> None:
        self._sites: dict[tuple[str, int], Repeated] = {}  # oldest window first

    def admit(self, record: logging.LogRecord, now: float) -> tuple[bool, list[Repeated]]:
        """Whether this line passes, and which windows have ended with lines suppressed."""
        ended: list[Repeated] = []
        site = (record.pathname, record.lineno)
        while self._sites:
            oldest = next(iter(self._sites))
            crowded = len(self._sites) >= LOG_SITES and site not in self._sites
            if now < self._sites[oldest].since_s + LOG_WINDOW_S and not crowded:
                break
            ended.append(self._sites.pop(oldest))
        seen = self._sites.get(site)
        if seen is None:
            seen = Repeated(now, record.name, record.levelname.lower(), str(record.msg))
            self._sites[site] = seen
        seen.lines += 1
        return seen.lines <= LOG_SITE_LINES, [window for window in ended if window.suppressed]

    def end(self) -> list[Repeated]:
        """Forget everything; returns what is still untold."""
        ended = [window for window in self._sites.values() if window.suppressed]
        self._sites.clear()
        return ended


class Sink:
    """Writes to a stream that may be closed, full or stalled; then it says False and goes on."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._fd: int | None = None
        self._poll = select.poll()
        self._torn = False
        try:
            if stream is not None:
                self._fd = stream.fileno()
                self._poll.register(self._fd, select.POLLOUT)
        except (OSError, ValueError):
            self._fd = None  # no file behind it, such as a StringIO

    def write(self, text: str) -> bool:
        try:
            if self._fd is not None:
                return self._write_fd(self._fd, text)
            if self._stream is None:
                return False
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads, the disk is full, or it is closed
            return False
        return True

    def _write_fd(self, fd: int, text: str) -> bool:
        rest = (b"\n" if self._torn else b"") + text.encode(errors="backslashreplace")
        while rest:
            if not self._poll.poll(0):
                return False
            rest = rest[os.write(fd, rest[:PIPE_BYTES]) :]
            self._torn = bool(rest)
        return True


class Output(logging.Handler):
    """Where all lines of this process go. `hide` a secret as soon as you know it."""

    def __init__(
        self,
        process: str,
        render: Callable[[Line], str],
        sink: Sink,
        redactor: Redactor,
        now: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        super().__init__()
        self.hide = redactor.hide
        self._process = process
        self._render = render
        self._sink = sink
        self._redactor = redactor
        self._now = now
        self._wall = wall
        self._thinning = Thinning()
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, one line at a time."""
        try:
            if record.name == ACCESS:
                passes, ended = True, list[Repeated]()
            else:
                passes, ended = self._thinning.admit(record, self._now())
            self._tell(ended)
            if passes:
                self._send(
                    record.name,
                    record.levelname,
                    _message(record),
                    getattr(record, "fields", {}),
                    _traceback(record),
                    request_id.get(),
                )
        except Exception as error:  # noqa: BLE001 - some object's __str__; its caller must go on
            fields = {"at": f"{record.pathname}:{record.lineno}", "error": type(error).__name__}
            self._send(__name__, "error", "a line could not be shown", fields)

    def close(self) -> None:
        """Tell what is still untold, and leave the loggers. Python does this at exit too."""
        self.acquire()
        try:
            self._tell(self._thinning.end())
        finally:
            self.release()
        logging.getLogger().removeHandler(self)
        super().close()

    def _tell(self, ended: Sequence[Repeated]) -> None:
        for window in ended:
            message = f"suppressed {window.suppressed} similar lines"
            self._send(window.logger, window.level, message, {"like": window.message})

    def _send(
        self,
        logger: str,
        level: str,
        message: str,
        fields: Mapping[str, object],
        exception: str = "",
        request: str | None = None,
    ) -> None:
        if self._lost:
            fields = {**fields, "lost_before": self._lost}  # this line is the next that may pass
        clean = self._redactor
        line = Line(
            ts=datetime.fromtimestamp(self._wall(), UTC),
            level=level.lower(),
            process=self._process,
            logger=logger,
            msg=clean.text(message),
            request_id=None if request is None else clean.text(request),
            fields={name: clean.field(name, value) for name, value in fields.items()},
            exception=clean.text(exception, keep_end=True).splitlines(),
        )
        self._lost = 0 if self._sink.write(self._render(line) + "\n") else self._lost + 1


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # the arguments do not fit the message
        return f"{record.msg} {record.args!r}"


def _traceback(record: logging.LogRecord) -> str:
    error = record.exc_info[1] if record.exc_info else None
    return "" if error is None else "".join(traceback.format_exception(error))


def setup(
    format: Format,
    level: Level,
    process: str,
    *,
    now: Callable[[], float],
    wall: Callable[[], float],
    stream: TextIO | None = None,
    access: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Output:
    """Send every logger of this process to stderr (or `stream`), in place of an earlier setup.

    Secrets are taken from the environment: variables named like *_API_KEY or *_TOKEN.
    """
    _check("the log format", format, get_args(Format), "--log-format")
    _check("the log level", level, get_args(Level), "--log-level")
    output = Output(
        process,
        as_json if format == "json" else as_console,
        Sink(sys.stderr if stream is None else stream),
        Redactor(os.environ if environ is None else environ),
        now,
        wall,
    )
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, Output):
            handler.close()
    root.addHandler(output)
    change(level, access=access)
    return output


def hide(secret: str) -> None:
    """Never write this again, under whatever name it is told."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Output):
            handler.hide(secret)


def change(level: Level, *, access: bool) -> None:
    """While it runs, after `setup`."""
    logging.getLogger().setLevel(level.upper())
    logging.getLogger(ACCESS).disabled = not access


def _check(what: str, value: str, allowed: Sequence[str], option: str) -> None:
    if value not in allowed:
        raise BadSetting(
            f"{what} is unknown",
            value=value,
            remedy=f"Choose one of {', '.join(allowed)} with {option}.",
        )
