"""Where a process begins: `paceline ...` for people, `python -m paceline _front` for the owner.

Modules are no garbage. To look for some among them took a fifth of what the shortest command takes:
while they are imported, and once more at the end of the process.
"""

import gc
import sys


def main() -> None:
    gc.disable()
    if sys.argv[1:2] == ["_front"]:
        from paceline.app import run_front

        run_front()
    elif sys.argv[1:2] == ["_model"]:
        from paceline.processes.child import LINK_FD
        from paceline.serve.model_host import run_model

        _collect_what_comes()
        run_model(LINK_FD)
    else:
        try:
            from paceline.cli.main import run
        except KeyboardInterrupt:  # before there was anything that could say so better
            sys.exit(130)
        _collect_what_comes()
        status = run(sys.argv[1:])
        gc.freeze()
        sys.exit(status)


def _collect_what_comes() -> None:
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    main()
