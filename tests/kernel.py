"""What the kernel says of a process or thread: a signal or a wait counts when it has been seen."""

from pathlib import Path


def state(process: int | str, thread: int | None = None) -> str:
    """R, S (it waits), T (it is stopped), Z and so on."""
    of = "stat" if thread is None else f"task/{thread}/stat"
    return Path(f"/proc/{process}/{of}").read_text().rpartition(")")[2].split()[0]
