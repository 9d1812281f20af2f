"""Who listens on a port, as far as this user may know. For an error message only."""

import os
from pathlib import Path

PROC = Path("/proc")
LISTENING = "0A"
COMMAND_CHARS = 80


def listener_on(port: int) -> str | None:
    """`COMMAND (process PID)`, or None where the kernel does not tell us."""
    inodes = _listening_inodes(port)
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in PROC.iterdir():
        if not process.name.isdigit():
            continue
        try:
            for fd in (process / "fd").iterdir():
                if os.readlink(fd) in wanted:
                    words = (process / "cmdline").read_bytes().split(b"\0")
                    command = b" ".join(words).decode(errors="replace").strip()[:COMMAND_CHARS]
                    return f"`{command}` (process {process.name})"
        except OSError:
            continue  # it has ended, or belongs to somebody else
    return None


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            local, state, inode = fields[1], fields[3], fields[9]
            if state == LISTENING and int(local.rpartition(":")[2], 16) == port:
                inodes.add(inode)
    return inodes
