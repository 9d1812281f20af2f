"""Whether this process has a terminal to be hung up on. Called by the owner."""

import os


def has_terminal() -> bool:
    """Of its session, whatever standard input and output are."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
