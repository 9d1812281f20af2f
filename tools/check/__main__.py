"""Runs the steps and prints what they find; `./check` calls it from the root of the repository."""

import gc
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from check import (
    acceptance,
    calls,
    docs,
    errors,
    imports,
    largest,
    lock,
    names,
    ruff,
    tree,
    types,
)
from check.found import Check, Finding

ROOT = Path(__file__).resolve().parent.parent.parent

STEPS: dict[str, Check] = {
    "format": ruff.check_format,
    "lint": ruff.check_lint,
    "imports": imports.check,
    "calls": calls.check,
    "errors": errors.check,
    "names": names.check,
    "lock": lock.check,
    "tree": tree.check,
    "acceptance": acceptance.check,
    "docs": docs.check,
    "types": types.check,
}
"""Cheapest first, so that the usual finding does not wait for mypy."""

BESIDE = "types"
"""a process that takes longer than all others together; it runs meanwhile"""

WRITERS: dict[str, Callable[[Path], None]] = {
    "lint": ruff.write_lint,
    "format": ruff.write_format,
    "docs": docs.write,
}

USAGE = """\
./check              run every step
./check STEP...      run these
./check --list       what the steps look at
./check --write      first write what can be written: lint's repairs, format, docs/reference/
"""


def main(arguments: list[str]) -> int:
    options = {word for word in arguments if word.startswith("-")}
    wanted = [word for word in arguments if word not in options]
    if "--help" in options:
        print(USAGE, end="")
        return 0
    unknown = [*(options - {"--list", "--write"}), *(word for word in wanted if word not in STEPS)]
    if unknown:
        print(f"./check does not know {' '.join(unknown)}.\n\n{USAGE}", file=sys.stderr)
        print(f"Steps: {' '.join(STEPS)}", file=sys.stderr)
        return 2
    if "--list" in options:
        for name, check in STEPS.items():
            print(f"{name:<12}{check.__doc__}")
        return 0
    if "--write" in options:
        for name, write in WRITERS.items():
            if name in wanted or not wanted:
                write(ROOT)
    gc.disable()  # trees hold no rings, and it would walk over them again and again
    chosen = [name for name in STEPS if name in wanted or not wanted]
    with ThreadPoolExecutor(1) as thread:
        beside = thread.submit(run, STEPS[BESIDE]) if BESIDE in chosen else None
        passed = [
            tell(name, *(beside.result() if beside and name == BESIDE else run(STEPS[name])))
            for name in chosen
        ]
    if not wanted:
        print(f"\n{largest.report(ROOT)}")
    return 0 if all(passed) else 1


def run(check: Check) -> tuple[list[Finding], float]:
    """What is found, and how long that took."""
    began = time.perf_counter()
    found = check(ROOT)
    return found, time.perf_counter() - began


def tell(name: str, found: list[Finding], took_s: float) -> bool:
    print(f"{'FAIL' if found else 'ok  '} {name:<12}{took_s:5.1f} s", flush=True)
    for finding in found:
        print(finding, flush=True)
    return not found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
