"""The pages do what they say: their commands run in a copy of the tree, their output is compared.

README, tutorial and guides become one shell script each, run in order in a network of its own, so
the port a page names is always free. Of the fenced blocks these are run:

- `sh`: every command must succeed. A `json` or `text` block directly below shows what it prints.
- `console`: each `$ command` must print the lines below it, and may fail.
- `python`: run by the development environment; a block directly below shows what it prints.

`...` stands for any text; without it JSON is compared as JSON, and floats may differ a little.
`paceline up` and `paceline serve` go on behind the page until `<!-- Ctrl-C -->`, which presses it,
or `<!-- stopped -->`, which waits for its end; either must exit 0. Only `<!-- not run: REASON -->`
right above keeps a block from running. The other tests hold index and tables to the tree.
"""

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

import paceline
from paceline.cli.main import command_line

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("tutorial/*.md")), *sorted(DOCS.glob("guides/*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

PAGE_S = 120
CORES = 2  # what `up` prints depends on them

SHELL = r"""
ip link set lo up
status=0 server=
up() { # runs "$@" until it says how to stop, or to its end
    local pipe log line
    pipe=$(mktemp -u) log=$(mktemp)
    mkfifo "$pipe"
    "$@" >"$pipe" 2>"$log" &
    local pid=$!
    exec {printed}<"$pipe"
    while IFS= read -r line <&"$printed"; do
        printf '%s\n' "$line"
        if [[ $line == "  stop "* ]]; then server=$pid; return; fi
    done
    cat "$log"
    wait $pid
}
stopped() { local ended=$server; server=; wait $ended; }
ctrl_c() { kill -INT $server; stopped; }
"""
END = "\n: at the end of the page\nprintf '\\n@@ end\\n'\n[ -z \"$server\" ] || ctrl_c\n"


class Step(NamedTuple):
    """One thing a page does; `shown` is what it says is printed, None where it says nothing."""

    line: int
    command: str
    may_fail: bool = False
    shown: str | None = None

    def script(self, index: int) -> str:
        mark = f"printf '\\n@@ {index}\\n'\n(exit $status)\n"
        command = re.sub(
            r"^(\./)?paceline (up|serve)\b", r"up \g<0>", self.command, flags=re.MULTILINE
        )
        if self.may_fail:
            return f"{mark}{command}\nstatus=$?\n"
        return f"status=0\n{mark}set -e\n{command}\nset +e\n"


PART = re.compile(
    r"<!--(?P<comment>.*?)-->|^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
PROMPT = re.compile(r"^\$ ", re.MULTILINE)
NOT_RUN = "not run: "


def steps(page: str) -> Iterator[Step | str]:
    """What to run, in order; for a block that is not run, the reason."""
    previous: Step | None = None
    ends, reason = 0, ""
    for part in PART.finditer(page):
        directly_below = not page[ends : part.start()].strip()
        line = page.count("\n", 0, part.start()) + 1
        ends = part.end()
        language, text = part["language"], part["text"]
        if previous and not (directly_below and language in ("json", "text")):
            yield previous
            previous = None
        comment = (part["comment"] or "").strip()
        if comment:
            if comment in ("Ctrl-C", "stopped"):
                yield Step(line, comment.lower().replace("-", "_"))
            reason = comment.removeprefix(NOT_RUN) if comment.startswith(NOT_RUN) else ""
            continue
        if previous:
            yield previous._replace(shown=text)
            previous = None
        elif reason and directly_below:
            yield f"line {line}: {reason}"
        elif language == "sh":
            previous = Step(line, text)
        elif language == "python":
            python = 'PYTHONPATH=src "$DEV_PYTHON"'
            previous = Step(line, f"{python} - <<'END OF BLOCK'\n{text}END OF BLOCK")
        elif language == "console":
            yield from console(line, text)
        reason = ""
    if previous:
        yield previous


def console(line: int, text: str) -> Iterator[Step]:
    first, *commands = PROMPT.split(text)
    assert not first, f"line {line}: a console block begins with `$ `"
    for each in commands:
        command, shown = re.split(r"(?<!\\)\n", each, maxsplit=1)
        yield Step(line, command, may_fail=True, shown=shown)


def matches(shown: str, printed: str) -> bool:
    if "..." not in shown:
        try:
            expected = json.loads(shown, parse_float=lambda x: pytest.approx(float(x), rel=1e-3))
            return bool(json.loads(printed) == expected)
        except json.JSONDecodeError:
            return shown.strip() == printed.strip()
    pattern = ".*".join(map(re.escape, shown.strip().split("...")))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def tree_copy(into: Path) -> Path:
    """The tree as a clone has it, with the packages of this environment instead of an install."""
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        if (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, into / name)
    venv.create(into / ".venv", symlinks=True)
    (packages,) = (into / ".venv").glob("lib/python*/site-packages")
    ours = Path(pytest.__file__).parent.parent
    (packages / "borrowed.pth").write_text(f"{into / 'src'}\n{ours}\n")
    stamp = (
        "from environment import ROOT, Environment\n"
        "made = Environment(ROOT, ROOT / '.venv', ROOT / 'locks/run.txt')\n"
        "made.stamp.write_bytes(made.wanted())\n"
    )
    subprocess.run([sys.executable, "-c", stamp], cwd=into / "tools", check=True)
    return into


def run(page: str, where: Path, home: Path) -> None:
    """Runs a page's text in `where`; fails with its line when it does or prints something else."""
    todo = list(steps(page))
    for reason in (step for step in todo if isinstance(step, str)):
        print(f"not run, {reason}")
    wanted = [step for step in todo if isinstance(step, Step)]
    script = SHELL + "".join(step.script(index) for index, step in enumerate(wanted)) + END
    home.mkdir(exist_ok=True)
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:CORES]))
    process = subprocess.Popen(
        ["taskset", "-c", cores, "unshare", "--map-root-user", "--net", "bash", "-c", script],
        cwd=where,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "DEV_PYTHON": sys.executable,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=PAGE_S)
    except subprocess.TimeoutExpired:
        kill_group(process.pid)
        printed, _ = process.communicate()
    finally:
        kill_group(process.pid)  # the server of a page that ended too early
    judge(wanted, printed, process.returncode)


def kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def judge(wanted: list[Step], printed: str, status: int) -> None:
    _, *parts = re.split(r"(?:^|\n)@@ (\d+|end)\n", printed)
    assert parts, f"nothing ran, status {status}: {printed}"
    last = parts[-2]
    for index, (step, said) in enumerate(zip(wanted, parts[1::2], strict=False)):
        what = f"line {step.line}: {step.command}"
        assert last != str(index), f"{what}\nends with status {status}:\n{said}"
        assert step.shown is None or matches(step.shown, said), (
            f"{what}\nprints\n{said}\nbut the page shows\n{step.shown}"
        )
    assert status == 0, f"the server ends with status {status}:\n{parts[-1]}"


# The pages


@pytest.mark.slow
@pytest.mark.needs("own-network")
@pytest.mark.parametrize("name", NAMES)
def test_a_page_does_what_it_says(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        run((ROOT / name).read_text(), tree_copy(tmp_path / "paceline"), tmp_path / "home")
    finally:
        said = capsys.readouterr().out
        with capsys.disabled():
            print("".join(f"\n{name}: {line}" for line in said.splitlines()), end="")


@pytest.mark.slow
@pytest.mark.needs("own-network")
@pytest.mark.parametrize(
    ("now", "drifted"),
    [
        ('"label":3', '"label":4'),
        ("/predict/digits -H", "/forecast/digits -H"),
        ("./paceline up\n", "./paceline upp\n"),
        ("the shipped example", "an example"),
        ("urlopen(request)", "urlopen(reqest)"),
    ],
)
def test_a_readme_that_drifts_from_the_program_fails(
    now: str, drifted: str, tmp_path: Path
) -> None:
    readme = (ROOT / "README.md").read_text()
    assert now in readme
    with pytest.raises(AssertionError, match="line "):
        run(readme.replace(now, drifted), tree_copy(tmp_path / "paceline"), tmp_path / "home")


# The runner itself

GOOD = [
    "```sh\nX=1\n```\nlater\n```sh\necho $X\n```\n```text\n1\n```",
    "```console\n$ echo one; echo two\none\n...\n$ (exit 3)\n$ echo $?\n3\n```",
    "```console\n$ echo a \\\n    b\na b\n```",
    '```sh\necho \'{"a": [0.33333, 1]}\'\n```\n```json\n{"a": [0.33334, 1]}\n```',
    "```python\nprint(6 * 7)\n```\n```text\n42\n```",
    "<!-- not run: it fails -->\n```sh\nfalse\n```",
    "```sh\ntrue\n```\nand elsewhere\n```text\nnot its output\n```",
]
BAD = [
    "```sh\nfalse\ntrue\n```",
    "```sh\necho one\n```\n```text\ntwo\n```",
    "```console\n$ echo one\ntwo\n```",
    "```console\n$ echo one\none\n$ echo two\nthree\n```",
    '```sh\necho \'{"a": [0.33333, 1]}\'\n```\n```json\n{"a": [0.34, 1]}\n```',
    "```python\nprint(6 * 8)\n```\n```text\n42\n```",
    "```python\nraise KeyError\n```",
    "<!-- a remark -->\n```sh\nfalse\n```",
    "<!-- not run: it fails -->\n```sh\nfalse\n```\n```sh\nfalse\n```",
    "```sh\n(exit 7) & server=$!\n```\n<!-- stopped -->",
]


@pytest.mark.needs("own-network")
def test_a_page_that_says_what_happens_passes(tmp_path: Path) -> None:
    for page in GOOD:
        run(page, tmp_path, tmp_path / "home")


@pytest.mark.needs("own-network")
@pytest.mark.parametrize("page", BAD)
def test_a_page_that_says_something_else_fails(page: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run(page, tmp_path, tmp_path / "home")


def test_a_block_that_is_not_run_gives_its_reason() -> None:
    assert list(steps("<!-- not run: no GPU -->\n```sh\nfalse\n```")) == ["line 2: no GPU"]


@pytest.mark.parametrize("name", NAMES)
def test_no_command_hides_in_a_block_that_nothing_runs(name: str) -> None:
    for part in PART.finditer((ROOT / name).read_text()):
        assert part["language"] not in ("bash", "shell", "zsh", "py"), part[0]


# The index, the reference, the tables


def links(page: Path) -> Iterator[Path]:
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text()):
        if ":" not in target:
            yield (page.parent / target).resolve()


def test_every_page_is_reachable_from_the_index() -> None:
    seen: set[Path] = set()
    waiting = [DOCS / "README.md"]
    while waiting:
        page = waiting.pop()
        if page.suffix == ".md" and page.is_file() and page not in seen:
            seen.add(page)
            waiting += links(page)
    missing = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page not in seen}
    assert not missing, f"link these from docs/README.md: {sorted(missing)}"


def commands(path: str, command: Any) -> Iterator[tuple[str, list[str]]]:
    """Every command with its options; typer's classes are its own, hence Any."""
    context = command.context_class(command, info_name=path)
    yield path, [name for each in command.get_params(context) for name in each.opts]
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from commands(f"{path} {name}", command.get_command(context, name))


def test_every_command_and_option_is_in_the_reference() -> None:
    sections = re.split(r"^## ", (DOCS / "reference" / "cli.md").read_text(), flags=re.MULTILINE)
    shown = {section.partition("\n")[0]: section for section in sections}
    for path, options in commands("paceline", typer.main.get_command(command_line())):
        assert path in shown, f"`{path}` is missing; run `./check --write docs`"
        for option in options:
            assert f"`{option}" in shown[path], f"`{path} {option}` is missing"


def test_the_changelog_has_a_place_for_the_next_change() -> None:
    titles = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert titles[0] == "Unreleased"


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_readme_opens_with_the_project_s_sentence() -> None:
    words = " ".join((ROOT / "README.md").read_text().split())
    assert words.startswith(f"# Paceline {PROJECT['project']['description']} ")


def test_the_readme_s_example_is_the_shipped_one() -> None:
    example = (ROOT / "examples" / "predict.py").read_text()
    (block,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert example.endswith(block)


def house() -> list[tuple[str, str]]:
    """Name and floor of everything in the picture, in its order."""
    picture = (DOCS / "design" / "house.md").read_text()
    return re.findall(r"^  (\w+)(?:/|\.py) +(\d|-)  \S", picture, re.MULTILINE)


def test_the_picture_of_the_house_shows_what_is_there() -> None:
    package = Path(paceline.__file__).parent
    there = {path.parent.name for path in package.glob("*/__init__.py")}
    there |= {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert sorted(name for name, _ in house()) == sorted(there)


def test_the_floors_of_the_picture_are_the_checked_ones() -> None:
    contract = PROJECT["tool"]["importlinter"]["contracts"][0]
    layer_of = {
        name: -index
        for index, layer in enumerate(contract["layers"])
        for name in re.findall(r"\w+", layer)
    }
    floors = [(int(floor), layer_of[name]) for name, floor in house() if floor != "-"]
    for floor, layer in floors:
        for other, other_layer in floors:
            assert floor <= other or layer > other_layer, f"floors {floor} and {other}"


def requirements(lines: list[str]) -> list[str]:
    return [line.partition(" ")[0] for line in lines]


def test_every_dependency_has_its_reason_and_its_size() -> None:
    text = (DOCS / "design" / "dependencies.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)`[^|]*\| ([\d.]+) \|", text, re.MULTILINE)
    project = PROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    assert [name for name, _ in rows] == requirements([*project["dependencies"], *extras])
    for name, megabytes in rows:
        assert float(megabytes) == pytest.approx(installed_mb(name), rel=0.25, abs=0.1), name


def installed_mb(name: str) -> float:
    files = importlib.metadata.distribution(name).files or []
    paths = [Path(str(file.locate())) for file in files if file.suffix != ".pyc"]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6
