"""Where a process begins: `paceline ...` for people, `python -m paceline _front` for the owner."""

import sys


def main() -> None:
    if sys.argv[1:2] == ["_front"]:
        from paceline.app import run_front

        run_front()
    elif sys.argv[1:2] == ["_model"]:
        from paceline.processes.child import LINK_FD
        from paceline.serve.model_host import run_model

        run_model(LINK_FD)
    else:
        try:
            from paceline.cli.main import run
        except KeyboardInterrupt:  # before there was anything that could say so better
            sys.exit(130)
        sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
