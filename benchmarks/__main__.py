"""`./bench NAME ARGS` runs benchmarks/NAME.py; without a name it lists them."""

import ast
import difflib
import runpy
import sys
from pathlib import Path

EXIT_USAGE = 2


def benchmarks() -> dict[str, str]:
    """Each name with what its module says first."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        found[path.stem] = docstring.partition("\n")[0]
    return found


def main() -> None:
    known = benchmarks()
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in known:
        del sys.argv[0]
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
        return
    asked_wrongly = bool(name) and name not in ("-h", "--help")
    if asked_wrongly:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {nearest[0]}?" if nearest else "Choose one of these:"
        print(f"There is no benchmark {name}. {hint}", file=sys.stderr)
    width = max(map(len, known), default=0)
    for known_name, first_line in known.items():
        print(f"  {known_name:{width}}  {first_line}", file=sys.stderr if asked_wrongly else None)
    if asked_wrongly:
        sys.exit(EXIT_USAGE)


if __name__ == "__main__":
    main()
