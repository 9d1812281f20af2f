"""Chooses the Python that builds an environment: `bootstrap.py LOCK VENV ARGS`.

Called by tools/python when the environment is missing or stale. This file must parse on every
Python it turns away (3.6 and newer), so it stays plain; environment.py does the work.
"""

import os
import shutil
import subprocess
import sys

OLDEST = (3, 11)
NEWER = ("python3.14", "python3.13", "python3.12", "python3.11")
IS_NEW_ENOUGH = "import sys; sys.exit(sys.version_info < {!r})".format(OLDEST)  # noqa: UP032
EXIT_START = 3  # as in paceline.terms.errors, which an old Python cannot import


def newer_python() -> str:
    """One that runs and is new enough; empty where there is none. A version switcher's stub may
    bear the name and run nothing, hence the trial."""
    for name in NEWER:
        path = shutil.which(name) or ""
        null = subprocess.DEVNULL
        if path and not subprocess.call([path, "-c", IS_NEW_ENOUGH], stdout=null, stderr=null):
            return path
    return ""


def main() -> None:
    if tuple(sys.version_info[:2]) >= OLDEST:
        from environment import launch

        launch(sys.argv[1], sys.argv[2], sys.argv[3:])
    chosen = os.environ.get("PACELINE_PYTHON")
    newer = "" if chosen else newer_python()
    if newer:
        os.execv(newer, [newer, "-Es", *sys.argv])
    this = "{}.{}.{} at {}".format(*sys.version_info[:3], chosen or sys.executable)
    print(
        "Paceline needs Python 3.11 or newer; this is " + this + ".\n"
        "Install a newer one, or set PACELINE_PYTHON=/path/to/python3.12",
        file=sys.stderr,
    )
    sys.exit(EXIT_START)


if __name__ == "__main__":
    main()
