"""The standard streams as a command finds them: open, closed, full, or with nobody listening.

What cannot be written to standard output is an error of the command like others, told once; which
words and which exit code it gets is `main.py`'s business, the only caller.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress


class Output(io.FileIO):
    """`trouble` is the error that writing met; once it is told, what is still buffered is dropped,
    so that the interpreter does not try again when it ends."""

    trouble: OSError | None = None
    dropped = False

    def write(self, content, /) -> int:  # type: ignore[no-untyped-def]
        if self.dropped:
            return len(content)
        try:
            return super().write(content)
        except OSError as error:
            self.trouble = error
            raise


@contextmanager
def standard_streams() -> Iterator[Output | None]:
    """None where standard output is no file, as in a program that calls the command line.

    A stream that is closed is put in the place of the null device, the wrong way round: reading or
    writing fails, and no other file gets its number, which children would take for the stream.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    with ExitStack() as stack:
        if sys.stdin is None:
            sys.stdin = stack.enter_context(open(os.open(os.devnull, os.O_WRONLY)))
        if sys.stdout is None:
            sys.stdout = stack.enter_context(open(os.open(os.devnull, os.O_RDONLY), "w"))
        if sys.stderr is None:
            sys.stderr = stack.enter_context(open(os.devnull, "w"))
        output = _output()
        try:
            yield output
        finally:
            if output is not None:
                if output.trouble is None:
                    with suppress(OSError):  # only where another error is on its way already
                        sys.stdout.flush()
                output.dropped = True
                sys.stdout.close()
            sys.stdin, sys.stdout, sys.stderr = before


def _output() -> Output | None:
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):
        return None
    if not isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO):
        return None
    stream.flush()
    output = Output(stream.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=stream.encoding,
        errors="replace",  # a screen without arrows is no reason to fail
        line_buffering=stream.line_buffering or stream.write_through,
    )
    return output
