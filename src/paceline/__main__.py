"""Where a process begins: `paceline ...` for people, `python -m paceline _front` for the owner."""

import sys


def main() -> None:
    if sys.argv[1:2] == ["_front"]:
        from paceline.app import run_front

        run_front()
    else:
        try:
            from paceline.cli.main import run
        except KeyboardInterrupt:  # before there was anything that could say so better
            sys.exit(130)
        sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
