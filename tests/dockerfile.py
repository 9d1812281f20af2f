"""A Dockerfile read and built without an engine, as far as ours needs it.

The base image is this machine: its `/usr` and its Python, read-only. What the instructions write
lands in a directory per stage, which together with those makes the root of a Sandbox. Packages
are fetched beforehand, with the user's own pip settings, so that the build needs no network.
"""

import fnmatch
import json
import os
import shlex
import shutil
import string
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sandbox import BASE_PATH, PYTHON_COMMAND, bare_root, in_root

WHEELS = "/wheels"


class Instruction(NamedTuple):
    name: str
    rest: str

    @property
    def as_list(self) -> list[str]:
        """The exec form; the shell form, which swallows signals, is an error here."""
        parsed: list[str] = json.loads(self.rest)
        return parsed


@dataclass
class Image:
    """A stage: its root as far as the instructions wrote it, and how it starts."""

    root: Path
    environ: dict[str, str] = field(default_factory=lambda: {"PATH": BASE_PATH})
    directory: str = "/"
    user: int = 0
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)


def instructions(text: str) -> Iterator[Instruction]:
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for line in lines.replace("\\\n", "").splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield Instruction(name, rest.strip())


def build(dockerfile: Path, context: Path, wheels: Path, place: Path) -> Image:
    """The last stage. Each instruction does what the reference of Dockerfiles says, or fails."""
    arguments: dict[str, str] = {}
    stages: dict[str, Image] = {}
    image: Image | None = None
    for instruction in instructions(dockerfile.read_text()):
        name, rest = instruction
        if name == "ARG":
            argument, _, default = rest.partition("=")
            arguments[argument] = default
        elif name == "FROM":
            _, _, stage = string.Template(rest).substitute(arguments).partition(" AS ")
            image = Image(bare_root(place / f"stage-{len(stages)}"))
            stages[stage or "last"] = image
        else:
            assert image, f"{name} before FROM"
            obey(instruction, image, stages, context, wheels)
    assert image
    return image


def obey(
    instruction: Instruction,
    image: Image,
    stages: Mapping[str, Image],
    context: Path,
    wheels: Path,
) -> None:
    name, rest = instruction
    if name == "RUN":
        assert not rest.startswith("--"), f"cannot do this here: {rest}"
        run(rest, image, wheels)
    elif name == "COPY" and rest.startswith("--from="):
        stage, source, target = rest.removeprefix("--from=").split()
        copy(stages[stage].root / source.lstrip("/"), image.root / target.lstrip("/"))
    elif name == "COPY":
        *sources, target = shlex.split(rest)
        for source in sources:
            copy_from_context(context, source, image, target)
    elif name == "ENV":
        variable, _, value = rest.partition("=")
        image.environ[variable] = string.Template(value).substitute(image.environ)
    elif name == "WORKDIR":
        image.directory = rest
        (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif name == "USER":
        user, _, group = rest.partition(":")
        assert user == group
        image.user = int(user)
    elif name == "VOLUME":
        image.volumes.append(rest)
    elif name == "EXPOSE":
        image.ports.append(int(rest))
    elif name == "HEALTHCHECK":
        image.health = Instruction("CMD", rest.partition(" CMD ")[2]).as_list
    elif name == "ENTRYPOINT":
        image.entrypoint = instruction.as_list
    elif name == "CMD":
        image.command = instruction.as_list
    else:
        raise AssertionError(f"tests/dockerfile.py does not know {name}")


def run(command: str, image: Image, wheels: Path) -> None:
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS, "HOME": "/root"}
    done = subprocess.run(
        [
            *("bwrap", "--unshare-net", "--unshare-pid", "--die-with-parent"),
            *in_root(image.root, writable=True),
            *("--ro-bind", str(wheels), WHEELS),
            *("--chdir", image.directory, "sh", "-c", command),
        ],
        env=image.environ | offline,
        umask=0o022,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"RUN {command}\n{done.stdout}{done.stderr}"


def copy_from_context(context: Path, source: str, image: Image, target: str) -> None:
    """A file under its own name if the target is a directory; of a directory, what is in it."""
    into = image.root / os.path.join(image.directory, target).lstrip("/")
    names = [name for name in in_context(context) if is_below(name, source)]
    assert names, f"COPY {source}: there is no such file, or .dockerignore keeps it out"
    for name in names:
        inner = os.path.relpath(name, source)
        if inner == ".":
            inner = Path(name).name if target.endswith("/") else ""
        copy(context / name, into / inner if inner else into)


def in_context(context: Path) -> list[str]:
    """The files that .dockerignore lets through, of those that git knows or could."""
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.check_output(listed, cwd=context, text=True).splitlines()
    rules = (context / ".dockerignore").read_text().splitlines()
    patterns = [rule for rule in rules if rule and not rule.startswith("#")]
    return [name for name in names if not ignored(name, patterns) and (context / name).exists()]


def ignored(name: str, patterns: list[str]) -> bool:
    """The last pattern that fits decides; one that fits a directory fits all that is in it."""
    out = False
    for pattern in patterns:
        plain = pattern.removeprefix("!").removeprefix("**/")
        parts = Path(name).parts
        above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        fitting = parts if "**/" in pattern else above
        if any(fnmatch.fnmatchcase(part, plain) for part in fitting):
            out = not pattern.startswith("!")
    return out


def is_below(name: str, directory: str) -> bool:
    return name == directory or name.startswith(f"{directory}/")


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)


def fetch_wheels(lock: Path, directory: Path) -> None:
    options = ["--quiet", "--require-hashes", "--no-deps", "--only-binary=:all:"]
    subprocess.run(
        [PYTHON_COMMAND, "-m", "pip", "download", *options, "-r", str(lock), "-d", str(directory)],
        check=True,
    )
