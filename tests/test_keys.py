"""Client keys: what is promised of the file, the ring and the sessions of the page."""

import errno
import os
import stat
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.access.keys import SECRET_RANDOM_BYTES, Key, KeyFile, KeyRing
from paceline.access.sessions import Sessions
from paceline.terms.errors import (
    DiskFull,
    KeysDamaged,
    LimitReached,
    Misuse,
    NotFound,
    PacelineError,
    StateUnusable,
)
from paceline.terms.limits import KEYS, SESSION_S


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "state" / "keys.json")


def test_a_created_key_is_found_by_its_secret_and_by_nothing_else(file: KeyFile) -> None:
    key, secret = file.create("ci", "client", wall=100.0)
    ring = KeyRing(file.load())
    assert ring.check(secret) == ring.check(secret.encode()) == key
    assert (key.name, key.role, key.created_unix_s) == ("ci", "client", 100.0)
    assert ring.check(secret[:-1] + ("a" if secret[-1] != "a" else "b")) is None
    assert ring.check(key.sha256) is None
    assert ring.check("") is None


@given(st.one_of(st.text(), st.binary()))
def test_no_other_text_opens(guess: str | bytes) -> None:
    ring = KeyRing([Key("aaaaaaaa", "n", "admin", 0.0, "0" * 64)])
    assert ring.check(guess) is None


def test_the_file_never_holds_the_secret_and_is_for_its_owner_only(file: KeyFile) -> None:
    previous = os.umask(0)
    try:
        _, secret = file.create("ci", "admin", wall=0.0)
    finally:
        os.umask(previous)
    for path in file.path.parent.iterdir():
        assert secret[3:] not in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


def test_a_secret_has_128_random_bits_and_a_shape_the_log_knows(file: KeyFile) -> None:
    shown = {file.create(f"k{i}", "client", wall=0.0)[1] for i in range(20)}
    assert len(shown) == 20
    assert all(len(s) == 29 and s.startswith("pl_") and s == s.lower() for s in shown)
    assert SECRET_RANDOM_BYTES * 8 >= 128


def test_no_file_means_no_keys(file: KeyFile) -> None:
    assert file.load() == ()


@pytest.mark.parametrize("by", ["id", "name"])
def test_revoke_takes_an_id_or_a_name(file: KeyFile, by: str) -> None:
    file.create("stays", "admin", wall=0.0)
    key, secret = file.create("goes", "admin", wall=0.0)
    assert file.revoke(getattr(key, by)) == key
    assert [k.name for k in file.load()] == ["stays"]
    assert KeyRing(file.load()).check(secret) is None


def test_revoking_an_unknown_key_names_the_nearest(file: KeyFile) -> None:
    file.create("laptop", "admin", wall=0.0)
    with pytest.raises(NotFound, match="Did you mean laptop") as caught:
        file.revoke("labtop")
    assert caught.value.exit == 2


def test_a_name_is_taken_once(file: KeyFile) -> None:
    key, _ = file.create("ci", "admin", wall=0.0)
    for taken in ("ci", key.id):
        with pytest.raises(Misuse, match="exists"):
            file.create(taken, "client", wall=0.0)


@pytest.mark.parametrize("name", ["", " ", "a b", "-x", "a\nb", "x" * 65, "../x"])
def test_unusable_names_are_refused_before_anything_is_written(file: KeyFile, name: str) -> None:
    with pytest.raises(Misuse):
        file.create(name, "client", wall=0.0)
    assert not file.path.exists()


def test_the_number_of_keys_is_bounded(file: KeyFile) -> None:
    file.create("first", "admin", wall=0.0)
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    many = [
        Key(f"zzzzz2{alphabet[i // 32]}{alphabet[i % 32]}", f"k{i}", "client", 0.0, f"{i:064x}")
        for i in range(KEYS - 1)
    ]
    file._replace((*file.load(), *many))
    assert len(file.load()) == KEYS
    with pytest.raises(LimitReached):
        file.create("one-more", "client", wall=0.0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"format":2,"keys":[]}',
        b'{"format":1,"keys":[{"id":"aaaaaaaa"}]}',
        b'{"format":1,"keys":[],"more":1}',
        b'{"format":1,"keys":[]}' + b" " * (1 << 20),
    ],
)
def test_a_damaged_file_is_refused_and_left_alone(file: KeyFile, content: bytes) -> None:
    file.create("ci", "admin", wall=0.0)
    file.path.write_bytes(content)
    for call in (file.load, lambda: file.create("x", "admin", 0.0), lambda: file.revoke("ci")):
        with pytest.raises(KeysDamaged) as caught:
            call()
        assert caught.value.exit == 4
    assert file.path.read_bytes() == content


def test_two_keys_with_one_id_are_damage(file: KeyFile) -> None:
    key, _ = file.create("ci", "admin", wall=0.0)
    file._replace((key, msgspec.structs.replace(key, name="other")))
    with pytest.raises(KeysDamaged, match="share"):
        file.load()


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_a_file_open_to_others_is_refused_with_the_command_that_helps(
    file: KeyFile, mode: int
) -> None:
    file.create("ci", "admin", wall=0.0)
    file.path.chmod(mode)
    with pytest.raises(StateUnusable, match="chmod 600"):
        file.load()


def _failing(code: int) -> object:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("step", ["open", "fchmod", "fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EROFS, StateUnusable),
        (errno.EACCES, StateUnusable),
        (errno.EIO, StateUnusable),
    ],
)
def test_a_fault_at_any_step_leaves_the_old_keys_and_no_litter(
    file: KeyFile,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    code: int,
    expected: type[PacelineError],
) -> None:
    file.create("ci", "admin", wall=0.0)
    before = {path.name: path.read_bytes() for path in file.path.parent.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, step, _failing(code))
        with pytest.raises(expected) as caught:
            file.create("second", "admin", wall=0.0)
        assert str(file.path) in str(caught.value)
    assert {path.name: path.read_bytes() for path in file.path.parent.iterdir()} == before
    file.create("second", "admin", wall=0.0)
    assert [key.name for key in file.load()] == ["ci", "second"]


def test_what_a_crash_left_beside_the_file_is_no_obstacle(file: KeyFile) -> None:
    file.create("ci", "admin", wall=0.0)
    file.path.with_name("keys.json.new").write_bytes(b"half a fi")
    file.create("second", "admin", wall=0.0)
    assert [key.name for key in file.load()] == ["ci", "second"]


def test_keys_created_at_once_are_all_kept(file: KeyFile) -> None:
    threads = [
        threading.Thread(target=file.create, args=(f"k{i}", "client", 0.0)) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in file.load()) == [f"k{i}" for i in range(8)]


NOW = 1_000_000.0


def test_a_session_lasts_twelve_hours_and_names_its_key() -> None:
    sessions = Sessions(b"s" * 32, 8080)
    value = sessions.issue("abcdefgh", NOW)
    assert sessions.check(value, NOW) == "abcdefgh"
    assert sessions.check(value, NOW + SESSION_S - 1) == "abcdefgh"
    assert sessions.check(value, NOW + SESSION_S) is None
    assert SESSION_S == 12 * 3600


def test_a_session_of_another_run_is_no_session() -> None:
    value = Sessions(b"s" * 32, 8080).issue("abcdefgh", NOW)
    assert Sessions(b"t" * 32, 8080).check(value, NOW) is None


@given(st.integers(min_value=0), st.characters())
def test_no_altered_cookie_is_a_session(at: int, replacement: str) -> None:
    sessions = Sessions(b"s" * 32, 8080)
    value = sessions.issue("abcdefgh", NOW)
    at %= len(value)
    altered = value[:at] + replacement + value[at + 1 :]
    assert altered == value or sessions.check(altered, NOW) is None


@given(st.text())
def test_no_invented_cookie_is_a_session(value: str) -> None:
    assert Sessions(b"s" * 32, 8080).check(value, NOW) is None


def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites() -> None:
    sessions = Sessions(b"s" * 32, 8080)
    line = sessions.set_cookie("v")
    assert line.startswith("paceline_8080=v; ")
    assert {"HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={SESSION_S}"} <= set(
        line.split("; ")
    )
    assert sessions.set_cookie("v", secure=True).endswith("; Secure")
    assert "Max-Age=0" in sessions.clear_cookie()


def test_two_servers_on_one_host_keep_their_sessions_apart() -> None:
    assert Sessions(b"s" * 32, 8080).cookie != Sessions(b"s" * 32, 8081).cookie


@pytest.mark.needs("root")
def test_what_root_makes_belongs_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    KeyFile(tmp_path / "keys.json").create("app", "client", 0.0)
    for path in tmp_path.iterdir():
        assert path.stat().st_uid == 12345


def test_a_key_may_be_bound_to_models(file: KeyFile) -> None:
    key, secret = file.create("ci", "client", 0.0, ["gpt-4o", "claude-*"])
    assert key.models == ("gpt-4o", "claude-*")
    assert KeyRing(file.load()).check(secret) == key


@pytest.mark.parametrize("models", [[""], ["a b"], ["gpt*4o"], ["x" * 201], ["m"] * 33, ["a,b"]])
def test_what_names_no_model_binds_no_key(file: KeyFile, models: list[str]) -> None:
    with pytest.raises(Misuse):
        file.create("ci", "client", 0.0, models)
    assert not file.path.exists()


def test_a_file_from_before_models_is_read_and_stays_as_it_was(file: KeyFile) -> None:
    before = (
        b'{"format":1,"keys":[{"id":"aaaaaaaa","name":"old","role":"client",'
        b'"created_unix_s":1.0,"sha256":"' + b"0" * 64 + b'"}]}'
    )
    file.path.parent.mkdir(mode=0o700)
    file.path.write_bytes(before)
    file.path.chmod(0o600)
    (old,) = file.load()
    assert old.models == ()
    file.create("new", "client", 0.0)
    assert b"models" not in file.path.read_bytes()
