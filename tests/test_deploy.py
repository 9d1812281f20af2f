"""Paceline elsewhere: what deploy/ and docs/guides/deploy.md promise, each really started.

The container runs twice: in a Docker engine where one answers, and everywhere from the same
Dockerfile by tests/dockerfile.py in a sandbox. The unit runs under a systemd of its own.
"""

import configparser
import json
import os
import re
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from dockerfile import Image, build, fetch_wheels, instructions
from sandbox import Sandbox, in_root
from servers import Answer, Server

from paceline.serve import digits
from paceline.terms import errors

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
UNIT = ROOT / "deploy" / "paceline.service"
STATE = "/var/lib/paceline"
PORT = 8080
PREDICT = f"/predict/{digits.NAME}"
ROW = list(digits.SAMPLE_ROW)
DIGIT = 0
EXPOSURE_MOST = 1.5
"""What `systemd-analyze security` may say; 10 is a service without any protection."""

Done = subprocess.CompletedProcess[str]


class Container(Protocol):
    """A running one, as tests see it."""

    log: str

    def line(self) -> str: ...

    def execute(self, *command: str) -> Done: ...

    def ask(
        self, port: int, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Answer: ...

    def stop(self) -> int: ...


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    place = tmp_path_factory.mktemp("image")
    wheels = tmp_path_factory.mktemp("wheels")
    fetch_wheels(ROOT / "locks" / "run.txt", wheels)
    return build(DOCKERFILE, ROOT, wheels, place)


def boxed(image: Image, place: Path, *arguments: str) -> Sandbox:
    """`docker run --read-only --cap-drop ALL -v VOLUME:/var/lib/paceline IMAGE ARGUMENTS`."""
    volume = place / "volume"
    if not volume.exists():
        shutil.copytree(image.root / STATE.lstrip("/"), volume)
        os.chown(volume, image.user, image.user)
    options = [*in_root(image.root, writable=False), "--bind", str(volume), STATE]
    command = [*image.entrypoint, *(arguments or image.command)]
    return Sandbox(options, command, image.environ, place / "log", image.user)
