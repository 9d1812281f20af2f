"""Client keys: a small file that survives crashes, and a ring that checks a secret in microseconds.

`KeyFile` is the only writer of `keys.json`; the file never holds a secret, only its SHA-256. A
secret has 128 random bits, so a plain hash is enough: there is nothing to guess, hence nothing a
slow hash would slow down. `KeyRing` is what a front holds in memory. Neither decides what a role
may call (`gate.py`). Called by `cli/key.py`, and by the owner, which hands rings to the fronts.
"""

import base64
import difflib
import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from paceline.processes.state_dir import make_directory, refusal
from paceline.terms.errors import KeysDamaged, LimitReached, Misuse, NotFound, StateUnusable
from paceline.terms.limits import KEY_FILE_BYTES, KEY_MODELS, KEYS, LLM_MODEL_CHARS

Role = Literal["admin", "client"]

MAX_NAME_CHARS = 64

SECRET_PREFIX = "pl_"
SECRET_RANDOM_BYTES = 16
SECRET_CHARS = len(SECRET_PREFIX) + 26
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MODEL = re.compile(r"[\x21-\x29\x2b\x2d-\x7e]+\*?|\*")
"""The name of an LLM, or how such names begin: `gpt-4o`, `claude-*`."""

Model = Annotated[str, msgspec.Meta(min_length=1, max_length=LLM_MODEL_CHARS)]


class Key(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of a key. `sha256` is the hash of the whole secret, prefix included; `models`
    are the LLMs it may call, with a `*` at the end for all that begin so. Empty: whichever."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[a-z2-7]{8}$")]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARS)]
    role: Role
    created_unix_s: float
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    models: Annotated[tuple[Model, ...], msgspec.Meta(max_length=KEY_MODELS)] = ()


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal[1]
    keys: Annotated[tuple[Key, ...], msgspec.Meta(max_length=KEYS)]


class KeyRing:
    """The keys in force, looked up by the hash of a secret. Immutable: a change is a new ring.

    Looking the hash up in a dict is safe against timing: what is compared is the SHA-256 of the
    caller's guess, of which the caller controls no single byte.
    """

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._by_id = {key.id: key for key in keys}
        self._by_hash = {bytes.fromhex(key.sha256): key for key in self._by_id.values()}

    def check(self, secret: str | bytes) -> Key | None:
        if len(secret) != SECRET_CHARS:
            return None
        raw = secret.encode(errors="replace") if isinstance(secret, str) else secret
        return self._by_hash.get(hashlib.sha256(raw).digest())

    def get(self, key_id: str) -> Key | None:
        return self._by_id.get(key_id)

    def __len__(self) -> int:
        return len(self._by_id)


class KeyFile:
    """`keys.json` of one state directory: mode 0600, replaced whole, one writer at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> tuple[Key, ...]:
        """All keys, oldest first; none when the file does not exist yet."""
        with self._os_errors():
            try:
                file = self.path.open("rb")
            except FileNotFoundError:
                return ()
            with file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                content = file.read(KEY_FILE_BYTES + 1)
        if mode & 0o077:
            raise StateUnusable(
                f"the key file {self.path} is open to other users, who could have added keys",
                value=f"mode {mode:04o}",
                remedy=f"Run `chmod 600 {self.path}`, then see whether you know all of "
                "`paceline key list`.",
            )
        return self._parse(content)

    def create(
        self, name: str, role: Role, wall: float, models: Sequence[str] = ()
    ) -> tuple[Key, str]:
        """Add a key. The secret is returned this once and kept nowhere; `wall` is unix seconds."""
        _check_models(models)
        if len(name) > MAX_NAME_CHARS or not NAME.fullmatch(name):
            raise Misuse(
                "a key's name is not usable",
                value=name,
                remedy=f"Use up to {MAX_NAME_CHARS} letters, digits, dots, dashes or underscores.",
            )
        with self._locked():
            keys = self.load()
            taken = {key.name for key in keys} | {key.id for key in keys}
            if name in taken:
                raise Misuse(
                    "a key with this name exists",
                    value=name,
                    remedy=f"Choose another name, or first run `paceline key revoke {name}`.",
                )
            if len(keys) >= KEYS:
                raise LimitReached(
                    "the key file holds as many keys as it may",
                    value=KEYS,
                    remedy="Revoke keys that are not used: `paceline key list`.",
                )
            secret = SECRET_PREFIX + _base32(secrets.token_bytes(SECRET_RANDOM_BYTES))
            key_id = next(i for i in iter(_new_id, None) if i not in taken)
            sha256 = hashlib.sha256(secret.encode()).hexdigest()
            key = Key(key_id, name, role, wall, sha256, tuple(models))
            self._replace((*keys, key))
        return key, secret

    def revoke(self, id_or_name: str) -> Key:
        """Remove a key and return what it was."""
        if not self.path.exists():
            raise NotFound(
                "there are no keys in this state directory",
                value=str(self.path.parent),
                remedy="Name the directory of the server with --state.",
            )
        with self._locked():
            keys = self.load()
            gone = next((key for key in keys if id_or_name in (key.id, key.name)), None)
            if gone is None:
                known = [word for key in keys for word in (key.name, key.id)]
                nearest = difflib.get_close_matches(id_or_name, known, n=1)
                hint = f"Did you mean {nearest[0]}? " if nearest else ""
                raise NotFound(
                    "no key has this id or name",
                    value=id_or_name,
                    remedy=f"{hint}`paceline key list` shows all keys.",
                )
            self._replace(tuple(key for key in keys if key is not gone))
        return gone

    def _parse(self, content: bytes) -> tuple[Key, ...]:
        if len(content) > KEY_FILE_BYTES:
            raise self._damaged(f"it is longer than {KEY_FILE_BYTES} bytes")
        try:
            keys = msgspec.json.decode(content, type=_Document).keys
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._damaged(str(error)) from error
        if len({key.id for key in keys} | {key.name for key in keys}) < 2 * len(keys):
            raise self._damaged("two keys share an id or a name")
        return keys

    def _damaged(self, why: str) -> KeysDamaged:
        return KeysDamaged(
            f"the key file {self.path} cannot be read as one: {why}",
            remedy=f"Restore it, or move it away (`mv {self.path} {self.path}.damaged`) "
            "and create new keys with `paceline key create`.",
        )

    def _replace(self, keys: tuple[Key, ...]) -> None:
        """Write beside the file, then rename: a crash at any instant leaves the old or the new."""
        content = msgspec.json.format(msgspec.json.encode(_Document(1, keys)), indent=2)
        if len(content) >= KEY_FILE_BYTES:
            raise LimitReached(
                "the key file would be longer than it may be",
                value=f"{len(content)} bytes",
                remedy="Name fewer models for a key, or more of them with one `*`.",
            )
        new = self.path.with_name(self.path.name + ".new")  # fixed: a crash leaves one at most
        with self._os_errors():
            try:
                with open(new, "wb", opener=_open_private) as file:
                    file.write(content + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(new, self.path)
            except OSError:
                with suppress(OSError):  # the first error is the one to tell
                    new.unlink()
                raise
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Two `paceline key create` at once must not lose one of the keys."""
        with self._os_errors():
            make_directory(self.path.parent)
            lock_fd = _open_private(str(self.path) + ".lock", os.O_WRONLY | os.O_CREAT)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock_fd)  # releases it

    @contextmanager
    def _os_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise refusal(self.path, error) from error


def _check_models(models: Sequence[str]) -> None:
    if len(models) > KEY_MODELS:
        raise Misuse(
            "a key names more models than it may",
            value=len(models),
            remedy=f"Name up to {KEY_MODELS}; `gpt-*` stands for all that begin so.",
        )
    for model in models:
        if len(model) > LLM_MODEL_CHARS or MODEL.fullmatch(model) is None:
            raise Misuse(
                "this names no model",
                value=model,
                remedy="Write it as callers do, `gpt-4o`, or how it begins with a `*`: `claude-*`.",
            )


def _open_private(path: str, flags: int) -> int:
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(fd, 0o600)  # also when the file was there, or the umask is odd
    if os.geteuid() == 0:  # the server, of whatever user, must be able to read what root made
        owner = os.stat(os.path.dirname(path))
        os.fchown(fd, owner.st_uid, owner.st_gid)
    return fd


def _new_id() -> str:
    return _base32(secrets.token_bytes(5))


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()
