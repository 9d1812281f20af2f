"""What is kept of what was said in LLM calls: nothing unasked, nothing hidden, nothing for ever."""

import asyncio
import json
import os
import sqlite3
import stat
import string
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from paceline.cli.main import run
from paceline.clock import Chance, RealClock, SimulatedClock, run_simulated
from paceline.config import SaidSettings
from paceline.config.keeping import keep_of
from paceline.gateway.said.file import FILE, Row, SaidFile
from paceline.gateway.said.hide import Hider
from paceline.gateway.said.keep import Keep
from paceline.gateway.said.keeper import Keeper, Order, Said
from paceline.gateway.said.keeping import Keeping
from paceline.gateway.said.text import text_of
from paceline.observe.board import Board, read
from paceline.terms.errors import BadSetting
from paceline.terms.limits import SAID_READ_BYTES, SAID_TEXT_BYTES
from paceline.terms.metric import LLM_SAID
from servers import Server
from test_llm_front import Place
from test_relay import ANSWER, DONE, HEL, LO, ONE, ROLE, STOP

SECRET = "the word that must not stay"
HIDER = Hider({})


# --- What is hidden -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("write to Ann.O'Neil+x@mail.example.org.", "write to [e-mail]."),
        ("jörg@müller.de und du", "[e-mail] und du"),
        ("4111 1111 1111 1111", "[card]"),
        ("12 4111-1111-1111-1111 99", "12 [card] 99"),
        ("card 378282246310005, thanks", "card [card], thanks"),
        ("4111 1111 1111 1112", "4111 1111 1111 1112"),
        ("IBAN DE89 3704 0044 0532 0130 00 please", "IBAN [iban] please"),
        ("gb82west12345698765432", "[iban]"),
        ("+49 30 901820 or (212) 555-0123", "[phone] or [phone]"),
        ("030 / 901820", "030 / 901820"),
        ("call 030/901820 now", "call [phone] now"),
        ("in 2026-11-30 at 12:30, 10.0.0.1, 1700000000", None),
        ("key sk-abcdefghijklmnop ends", "key sk-*** ends"),
        ("ticket C-123456", "ticket [customer]"),
        ("Aurora is late", "[hidden] is late"),
        (r"{\"to\": \"bob@x.org\"}", r"{\"to\": \"[e-mail]\"}"),
        (r"bob\u0040x.org", "[e-mail]"),
    ],
)
def test_what_is_hidden_and_what_is_not(said: str, kept: str | None) -> None:
    hider = Hider({}, ["(?P<customer>C-[0-9]{6})", "Aurora"])
    assert hider.text(said) == (said if kept is None else kept)


words = st.text(string.ascii_letters + " .,;äß\n", max_size=30)


@given(
    words, words, st.text(string.digits, min_size=15, max_size=15), st.sampled_from(["", " ", "-"])
)
def test_a_card_is_found_wherever_it_stands(
    before: str, after: str, digits: str, between: str
) -> None:
    if not digits.strip("0"):
        return
    luhn = sum(sum(divmod(int(d) * (2 if n % 2 == 0 else 1), 10)) for n, d in enumerate(digits))
    number = digits + str(-luhn % 10)
    written = between.join(number[at : at + 4] for at in range(0, 16, 4))
    assert HIDER.text(f"{before} {written} {after}") == f"{before} [card] {after}"


@given(words)
def test_words_stay_as_they_are(text: str) -> None:
    assert HIDER.text(text) == text


@given(
    st.recursive(
        st.sampled_from(["ann@x.org", "hello", "4111 1111 1111 1111", 4111111111111111, 7, None]),
        lambda inner: st.lists(inner) | st.dictionaries(words, inner),
    )
)
def test_what_is_kept_of_a_body_is_json_still_without_what_is_hidden(value: object) -> None:
    body = json.dumps(value).encode()  # with every letter beyond ASCII escaped
    kept = text_of(body, len(body), HIDER)
    json.loads(kept)
    assert "ann@x.org" not in kept
    assert "4111" not in kept


def test_values_of_names_that_tell_secrets_are_hidden_and_pictures_are_left_out() -> None:
    body = json.dumps(
        {"password": "hunter2", "max_tokens": 5, "url": "data:image/png;base64," + "A" * 2000}
    ).encode()
    kept = json.loads(text_of(body, len(body), HIDER))
    assert kept == {"password": "***", "max_tokens": 5, "url": "[data of 2022 characters]"}


# --- What it is made of ---------------------------------------------------------------------------


def test_a_stream_is_put_together_before_anything_is_hidden_in_it() -> None:
    def piece(text: str) -> bytes:
        return b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})

    stream = b"\n\n".join(map(piece, ["Ask a", "nn@x", ".org", " today"])) + b"\n\n" + DONE
    assert text_of(stream, len(stream), HIDER) == "Ask [e-mail] today"
    assert text_of(ROLE + HEL + LO + STOP + DONE, 9, HIDER) == "Hello"


def test_tools_thoughts_and_choices_are_told_apart() -> None:
    events: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": "a"}}]},
        {"choices": [{"index": 1, "delta": {"content": "b"}}]},
        {
            "choices": [
                {
                    "index": 0,
                    "delta": {
                        "tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{"}}]
                    },
                }
            ]
        },
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"arguments": "}"}}]}}]},
        {"type": "content_block_start", "index": 3, "content_block": {"name": "g"}},
        {"type": "content_block_delta", "index": 3, "delta": {"partial_json": "{}"}},
        {"type": "content_block_delta", "index": 0, "delta": {"thinking": "hm"}},
        {"type": "response.output_text.delta", "delta": "c"},
        {"error": {"message": "m"}},
    ]
    stream = b"".join(b"data: " + orjson.dumps(each) + b"\n\n" for each in events)
    assert text_of(stream, len(stream), HIDER).splitlines() == [
        "ac",
        "[choice 1] b",
        "[tool call 0] f{}",
        "[tool call 3] g{}",
        "[thinking] hm",
        '[error] {"message":"m"}',
    ]


@given(st.binary(max_size=200), st.booleans())
@example(b"data: [1]\n\n", False)
@example(b'data: {"choices": [7], "delta": [], "index": {}}\n\n', True)
def test_whatever_was_said_something_is_kept(body: bytes, is_cut: bool) -> None:
    text_of(body, len(body) + is_cut, HIDER)


@pytest.mark.parametrize("size", [SAID_TEXT_BYTES + 100, SAID_READ_BYTES + 100])
def test_what_is_long_is_cut_and_told_so(size: int) -> None:
    body = b'{"q": "' + b"word " * (size // 5) + b'ann@x.org"}'
    kept = text_of(body[:SAID_READ_BYTES], len(body), HIDER)
    assert kept.endswith(f"[cut; it had {len(body)} bytes]")
    assert len(kept) <= SAID_TEXT_BYTES + 40


def test_what_is_cut_in_two_is_not_kept_by_half() -> None:
    body = (b"word " * 100_000)[: SAID_READ_BYTES - 5] + b"ann@x.org"
    kept = text_of(body[:SAID_READ_BYTES], len(body), Hider({}))
    assert "ann@" not in kept


# --- The file -------------------------------------------------------------------------------------


def row(number: int, text: str = SECRET, key: str | None = "k", at: float = 0.0) -> Row:
    return Row(f"c{number}", at, at + 100.0, key, "chat", "m", "r", 200, 9, 9, text, text)


def holds(folder: Path, text: str = SECRET) -> bool:
    return any(text.encode() in each.read_bytes() for each in folder.glob(f"{FILE}*"))


def test_what_is_over_is_not_told_and_then_not_there(tmp_path: Path) -> None:
    file = SaidFile(tmp_path)
    file.write([row(1), row(2, "newer", at=50.0)])
    assert holds(tmp_path)
    assert [each.id for each in file.rows(99.0, 9)] == ["c2", "c1"]
    assert [each.id for each in file.rows(100.0, 9)] == ["c2"]
    assert file.of("c1", 100.0, 9) == []
    assert file.expire(100.0) == 1
    assert not holds(tmp_path)
    assert holds(tmp_path, "newer")
    assert file.expire(61.0, keep_s=10.0) == 1  # the settings ask for less by now
    assert not holds(tmp_path, "newer")


@pytest.mark.parametrize(
    ("which", "left"),
    [({"call_id": "c1"}, ["c3", "c2"]), ({"key": "k"}, ["c3"]), ({}, [])],
)
def test_what_is_forgotten_is_overwritten(
    tmp_path: Path, which: dict[str, str], left: list[str]
) -> None:
    file, keepers = SaidFile(tmp_path), SaidFile(tmp_path)
    keepers.write([row(1), row(2, "another", at=1.0), row(3, "a third", key=None, at=2.0)])
    file.forget(**which)
    assert [each.id for each in file.rows(9.0, 9)] == left
    assert not holds(tmp_path)  # although another has it open
    keepers.close()


def test_it_is_for_its_user_alone_and_bounded(tmp_path: Path) -> None:
    file = SaidFile(tmp_path, most_bytes=400_000, most_calls=50)
    for number in range(60):
        file.write([row(number, "x", at=float(number))])
    assert [each.id for each in file.rows(0.0, 100)] == [f"c{n}" for n in range(59, 9, -1)]
    for each in tmp_path.glob(f"{FILE}*"):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    for number in range(60, 80):
        file.write([row(number, "y" * 30_000, at=float(number))])
    kept = [each.id for each in file.rows(0.0, 100)]
    assert kept[0] == "c79" or not kept
    assert file.path.stat().st_size < 2_000_000
    file.close()


def test_without_a_file_there_is_nothing_and_none_is_made(tmp_path: Path) -> None:
    file = SaidFile(tmp_path)
    assert (file.rows(0.0, 9), file.expire(0.0), file.forget()) == ((), 0, 0)
    assert [*tmp_path.iterdir()] == []


# --- The keeper process ---------------------------------------------------------------------------


def asked(keeper: Keeper, folder: Path, *calls: Said) -> Any:
    batch = msgspec.msgpack.encode(calls)
    memory = os.memfd_create("batch")
    try:
        os.pwrite(memory, batch, 0)
        return keeper.work(Order(1, len(batch), str(folder), Keep(100.0, hide=("Aurora",))), memory)
    finally:
        os.close(memory)


CALL = Said("c1", 5.0, None, "chat", "m", "r", 200, b'"Aurora"', 8, b'"ann@x.org"', 11)


class Full(SaidFile):
    """A disk without space."""

    def write(self, rows: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")


def test_it_keeps_what_is_left_when_the_rest_is_hidden(tmp_path: Path) -> None:
    assert asked(Keeper(), tmp_path, CALL).kept == 1
    (kept,) = SaidFile(tmp_path).of("c1", 6.0, 9)
    assert (kept.asked, kept.answered, kept.until) == ('"[hidden]"', '"[e-mail]"', 105.0)


def test_a_full_disk_is_told_and_a_damaged_file_begins_anew(tmp_path: Path) -> None:
    done = asked(Keeper(Full), tmp_path, CALL)
    assert (done.kept, done.trouble) == (0, "database or disk is full")
    (tmp_path / FILE).write_bytes(b"no database at all, " * 100)
    done = asked(Keeper(), tmp_path, CALL)
    assert (done.kept, done.trouble) == (1, "")
    assert done.begun_anew
    assert [each.id for each in SaidFile(tmp_path).rows(6.0, 9)] == ["c1"]


# --- The front's side -----------------------------------------------------------------------------


TEN_S = Keep(10.0)


class Kept(Keeping):
    """Tells what would be handed to the process."""

    def __init__(self, keep: Keep, clock: SimulatedClock) -> None:
        super().__init__(keep, "/nowhere", Board(), clock, ("-c", ""))
        self.calls: list[Said] = []

    def _send(self) -> None:
        self.calls += self._waiting
        self._waiting = []
        self._timer = None

    @property
    def held(self) -> int:
        return self._held_bytes


class Here(Place):
    def __init__(self, clock: SimulatedClock, chance: Chance, keep: Keep) -> None:
        super().__init__(clock, chance, ONE)
        self.kept = Kept(keep, clock)
        self.llm.__init__(self.relay, self.board, None, self.kept)  # type: ignore[misc]

    async def told(self) -> list[Said]:
        await self.clock.until(self.clock.now() + 1.0)
        return self.kept.calls


def at(scenario: Any, keep: Keep = TEN_S) -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        await scenario(Here(clock, chance, keep))

    run_simulated(main)


def ask(it: Here, *headers: str, **more: Any) -> Any:
    connection, sink = it.connect()
    raw = json.dumps({"model": "m", "messages": [], **more}).encode()
    head = ["POST /v1/chat/completions HTTP/1.1", "host: localhost", *headers]
    head += ["content-type: application/json", f"content-length: {len(raw)}", "", ""]
    connection.data_received("\r\n".join(head).encode() + raw)
    return connection, sink


def test_question_and_answer_are_kept_whole_or_streamed() -> None:
    async def scenario(it: Here) -> None:
        ask(it)
        it.far.last.answers(ANSWER)
        ask(it, stream=True)
        it.far.last.streams(ROLE, HEL, LO, STOP, DONE)
        it.far.last.ends()
        whole, stream = await it.told()
        assert json.loads(whole.asked)["model"] == "m"
        assert (whole.answered, whole.status, whole.route) == (ANSWER, 200, "m")
        assert text_of(stream.answered, stream.answered_bytes, HIDER) == "Hello"

    at(scenario)


def test_of_who_leaves_is_kept_what_they_heard() -> None:
    async def scenario(it: Here) -> None:
        connection, _ = ask(it, stream=True)
        it.far.last.streams(ROLE, HEL)
        connection.connection_lost(None)
        (left,) = await it.told()
        assert (left.status, text_of(left.answered, left.answered_bytes, HIDER)) == (0, "Hel")

    at(scenario)


@pytest.mark.parametrize(
    ("header", "kept"), [("no", 0), ("NO", 0), ("false", 0), ("", 0), ("yes", 1)]
)
def test_a_caller_may_ask_that_nothing_is_kept(header: str, kept: int) -> None:
    async def scenario(it: Here) -> None:
        ask(it, f"x-paceline-keep: {header}")
        it.far.last.answers(ANSWER)
        assert len(await it.told()) == kept

    at(scenario)


def test_a_caller_cannot_ask_that_anything_is_kept() -> None:
    async def scenario(it: Here) -> None:
        for routes, kept in (("other",), 0), (("m",), 1):
            it.kept._routes = frozenset(routes)
            ask(it, "x-paceline-keep: yes")
            it.far.last.answers(ANSWER)
            assert len(await it.told()) == kept

    at(scenario)


def test_no_room_is_left_behind_and_where_there_is_none_calls_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("paceline.gateway.said.keeping.SAID_HELD_BYTES", 2000)

    async def scenario(it: Here) -> None:
        sinks = [ask(it, user="u" * 600)[1] for _ in range(5)]
        for each in it.far.asked:
            each.answers(ANSWER)
        assert all(b"200 OK" in each.wrote for each in sinks)
        assert 1 <= len(await it.told()) < 5
        ask(it, model="nowhere")
        connection, _ = it.connect()
        connection.connection_lost(None)
        assert it.kept.held <= 2000

    at(scenario)


def counted(board: Board) -> dict[str, Any]:
    return {each.labels[0]: each.value for each in read([board]) if each.metric is LLM_SAID}


def test_a_process_that_hangs_or_dies_harms_nobody_and_what_waits_at_the_end_is_written(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        for arguments, outcome in (
            (("-m", "paceline.gateway.said.keeper"), "kept"),
            (("-c", "import sys; sys.exit(3)"), "dropped"),
        ):
            board = Board()
            keeping = Keeping(Keep(1e9), str(tmp_path), board, RealClock(), arguments)
            said = keeping.begin(b'{"q": "ann@x.org"}')
            assert said is not None
            said.add(ANSWER)
            keeping.ended(said, "c1", None, "chat", "m", "m", 200)
            await keeping.close()
            assert counted(board) == {"kept": 0, "dropped": 0, outcome: 1}

    asyncio.run(main())
    (kept,) = SaidFile(tmp_path).of("c1", 0.0, 9)
    assert kept.asked == '{"q":"[e-mail]"}'


# --- Settings, and a server -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "field"),
    [
        (SaidSettings(days=1, hide=("(",)), "hide"),
        (SaidSettings(days=1, hide=("x*",)), "hide"),
        (SaidSettings(days=1, hide=("a" * 501,)), "hide"),
        (SaidSettings(days=1, hide=("a",) * 65), "hide"),
        (SaidSettings(days=1, routes=("fest",)), "routes"),
    ],
)
def test_what_cannot_be_is_told_with_its_field(said: SaidSettings, field: str) -> None:
    ((where, error),) = keep_of(said, ["fast"])  # type: ignore[misc]
    assert where == field
    assert isinstance(error, BadSetting)
    assert error.remedy


def test_nothing_is_kept_unless_it_is_asked_for() -> None:
    assert [*keep_of(SaidSettings(hide=("a",)), ["fast"])] == []
    assert [*keep_of(SaidSettings(days=2, routes=("fast",)), ["fast"])] == [
        Keep(2 * 86400, ("fast",))
    ]


SETTINGS = """
[said]
days = 7
routes = ["sim-small", "nobody"]
hide = ["Aurora"]

[providers.simulated]

[routes.nobody]
targets = ["simulated/sim-small"]
"""


def test_a_server_keeps_tells_and_forgets_to_admins_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, state = tmp_path / "paceline.toml", tmp_path / "state"
    config.write_text(SETTINGS)
    there = ("--state", str(state), "--config", str(config))

    def command(*arguments: str) -> Any:
        assert run(["said", *arguments, *there, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert run(["key", "create", "app", "--state", str(state)]) == 0
    key = capsys.readouterr().out.split()[0]
    mine = {"authorization": f"Bearer {key}"}
    with Server(state, "--config", str(config)) as server:
        for model, who in (("sim-large", mine), ("sim-small", mine), ("sim-small", {})):
            words = f"ask ann@x.org about Aurora, {SECRET}"
            asked = {"model": model, "messages": [{"role": "user", "content": words}]}
            assert server.ask("POST", "/v1/chat/completions", asked, who).status == 200
        assert server.ask("GET", "/api/said", headers=mine).status == 403
        forget = {"everything": True}
        assert server.ask("POST", "/api/said/forget", forget, mine).status == 403
        kept: list[Any] = []
        while len(kept) < 2:  # they are written within moments
            kept = command("list")["calls"]
        assert [each["model"] for each in kept] == ["sim-small", "sim-small"]
        assert holds(state)
        assert not holds(state, "ann@x.org")
        assert not holds(state, "Aurora")
        of_key = next(each for each in kept if each["key"])
        (said,) = command("show", of_key["id"])["calls"]
        assert f"ask [e-mail] about [hidden], {SECRET}" in said["asked"]
        assert "simulated answer" in said["answered"]
        assert command("forget", "--key", of_key["key"]) == {"forgotten": 1}
        assert [each["key"] for each in command("list")["calls"]] == [None]
        assert run(["said", "show", of_key["id"], *there]) == 2
        assert "nothing is kept" in capsys.readouterr().err
        assert run(["said", "forget", *there]) == 2
        capsys.readouterr()
    assert command("forget", "--everything") == {"forgotten": 1}  # without a server
    assert run(["journal", "tail", "--state", str(state)]) == 0
    told = capsys.readouterr().out
    assert f"was erased: all of key {of_key['key']}, 1 in number" in told
    assert "was erased: all, 1 in number" in told
    for each in state.iterdir():
        if each.is_file():
            assert SECRET.encode() not in each.read_bytes()
