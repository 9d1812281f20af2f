"""Lives of a real server under strace, and what must hold of each wherever the power goes.

`lived` starts `paceline up` as people do, wishes for changes over HTTP, ends it, and keeps what its
callers were told. `judge` looks at what losses of power may leave of it. `PLANTED` are faults that
must be found. What a disk may lose is `power_loss.py`'s business. Called by `test_power_loss.py`
and by `./bench power`.
"""

import asyncio
import hashlib
import http.client
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from file_history import Recording
from paceline.access.keys import KeyFile
from paceline.changes.desk import Desk, Nobody, Wanted
from paceline.clock import RealClock, SimulatedClock
from paceline.journal.damage import inspect
from paceline.journal.entries import Adjusted, Body, Compacted, PlanChanged, to_entry
from paceline.journal.fold import NOTHING, State, fold
from paceline.journal.journal import Journal
from paceline.journal.sqlite import FILE, SqliteStore, read_file
from paceline.journal.store import Record
from paceline.journal.transfer import export_whole, import_lines, write_file
from paceline.serve import digits
from paceline.serve.knobs import catalogue
from paceline.terms.errors import PacelineError
from paceline.terms.limits import ADJUSTMENTS_KEPT_S, JOURNAL_BATCH
from paceline.terms.plan import Adjustment
from power_loss import Image, Tree, images, read_tree, record
from servers import Server

ANSWER_S = 30.0
STOP_S = 30.0
AT_ONCE = 8
"""callers at the same time"""

STATE = "state"
KEYS = "keys.json"
ROWS = f"{digits.NAME}.max_rows"
IN_FLIGHT = f"{digits.NAME}.max_in_flight"
DEADLINE = f"{digits.NAME}.deadline_ms"
PRIORITY = f"{digits.NAME}.priority"

AT_FIRST = '[server]\nlog_level = "info"\n\n[models.digits]\ngoal = ["p95_ms <= 30"]\n'
LATER = AT_FIRST.replace("info", "warning") + "\n[models.digits.pins]\nmax_in_flight = 64\n"
"""What the settings file says, and what it says when it is read again."""

SCRIPT = """\
exec 2>"$LOG"
paceline() {{ "$PYTHON" {program} "$@" --json --state "$STATE"; }}
{before}
"""
SERVE = 'exec "$PYTHON" {program} up --port 0 --fronts 1 --json --state "$STATE" --config "$CONFIG"'

AT_LENGTH = "\N{CRAB}" * 900
"""A reason that fills more than a page of the file."""

ACKNOWLEDGED = re.compile(
    rb'"((?:last_)?seq":\d+|needs_restart":\[[^]]*\],"version":\d+|created":"[^"]+)'
)
"""What owner, front or command say when something is durable: the number of the entry that holds
it, the last of those imported, the Plan's version after the settings were read again, a key's day
of creation."""


# --- What the callers do --------------------------------------------------------------------------


class Told(NamedTuple):
    """An answer: which entry stands for the wish, and the Plan afterwards."""

    action: str
    wish: Mapping[str, Any]
    seq: int
    version: int
    hash: str


class Refused(Exception):
    """By a server that ends."""


class Serving:
    """The running server, as its callers see it."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, settings: Path) -> None:
        self.told: list[Told] = []
        self.together: Sequence[int] = ()
        """The entries of wishes that came at the same time, and of no others."""
        self._process = process
        self._port = port
        self._settings = settings

    def wish(self, action: str, **wish: object) -> Told:
        wish["reason"] = f"{action} {len(self.told)} {wish.get('reason', '')}"
        answer = self._ask(f"/api/plan/{action}", wish)
        told = Told(action, wish, answer["seq"], answer["version"], answer["hash"])
        self.told.append(told)
        return told

    def wish_at_once(self, value: int) -> None:
        """More than the journal makes durable one by one."""
        values = {ROWS: value, IN_FLIGHT: value, DEADLINE: 10_000 + value, PRIORITY: "low"}
        with ThreadPoolExecutor(AT_ONCE) as callers:
            asked = [
                *(callers.submit(self.wish, "adjust", knob=k, value=v) for k, v in values.items()),
                *(callers.submit(self.wish, "set", knob=ROWS, value=value + n) for n in (1, 2, 3)),
            ]
        self.together = [each.result().seq for each in asked]

    def reload(self) -> None:
        self._settings.write_text(LATER)
        assert self._ask("/api/config/reload", {})["changed"]

    def end(self, number: int) -> None:
        """By a signal, while changes are on their way: some callers are told, some are not."""
        with ThreadPoolExecutor(AT_ONCE) as callers:
            asked = [callers.submit(self._try, 20_000 + n) for n in range(AT_ONCE)]
            wait(asked, return_when=FIRST_COMPLETED)
            self._process.send_signal(number)
        for each in asked:
            each.result()
        status = self._process.wait(STOP_S)
        assert status == (0 if number == signal.SIGTERM else -number)

    def _try(self, value: int) -> None:
        try:
            self.wish("set", knob=DEADLINE, value=value)
        except (OSError, http.client.HTTPException, Refused):
            return  # it is ending

    def _ask(self, path: str, body: object) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
        with closing(connection):
            headers = {"content-type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            answer = response.read()
        if response.status == 503:
            raise Refused(answer)
        assert response.status == 200, answer
        return json.loads(answer)


def work(server: Serving, value: int) -> None:
    """A little of everything."""
    for number in range(24):
        server.wish("set", knob=ROWS, value=value + number)
    server.wish_at_once(value + 30)
    server.wish("pin", knob=PRIORITY, value="high")
    server.wish("set", knob=DEADLINE, value=15_000 + value, envelope="10000..30000")
    server.reload()
    server.wish("unpin", knob=PRIORITY)
    last = server.wish("set", knob=ROWS, value=value + 40)
    server.wish("rollback", version=last.version - 20)
    server.wish("undo", version=last.version + 1)


def work_long(server: Serving, value: int) -> None:
    """Until SQLite has written its log back and begun it anew."""
    server.wish_at_once(value)
    for number in range(240):
        server.wish("set", knob=ROWS, value=value + 10 + number, reason=AT_LENGTH)


def work_little(server: Serving, value: int) -> None:
    for number in range(10):
        server.wish("set", knob=ROWS, value=value + number)


# --- Lives ----------------------------------------------------------------------------------------


NOTHING_FOUND: Tree = {}


class Life(NamedTuple):
    """`found` is on the disk at the start. `before` are shell commands, which print `lines` lines
    of JSON. The journal holds `history` at the start, or has it from the import of `export`. `work`
    begins at `value`, so that a second life changes something; without it there is no server."""

    about: str
    work: Callable[[Serving, int], None] | None
    end: int = signal.SIGTERM
    before: str = ""
    lines: int = 0
    found: Tree = NOTHING_FOUND
    history: Sequence[Record] = ()
    export: Path | None = None
    value: int = 100


KEYS_MADE = "paceline key create first\npaceline key create second --role admin\n"
KEYS_CHANGED = "{{ paceline key revoke {} && paceline key create {} || echo null; }} &\n"
"""While the server starts and serves."""

STOPPED = Life(
    "a first start, then SIGTERM",
    work,
    before=KEYS_MADE + KEYS_CHANGED.format("first", "third"),
    lines=4,
)
KILLED = STOPPED._replace(about="a first start, then kill -9", end=signal.SIGKILL)
BRIEF = Life("a brief life", work_little)
KEYS_ALONE = Life("keys alone", None, before=KEYS_MADE + "paceline key revoke first\n", lines=3)


class History(NamedTuple):
    """A journal older than single adjustments are kept: a server compacts it when it starts."""

    disk: Tree
    records: Sequence[Record]
    export: Path

    @classmethod
    def written(cls, place: Path, entries: int) -> "History":
        state, export = place / "disk" / STATE, place / "history.jsonl"
        state.mkdir(parents=True)
        asyncio.run(_write(state, entries))
        disk = read_tree(state.parent)
        export_whole(state / FILE, lambda lines: write_file(lines, export, force=False))
        return cls(disk, [*read_file(state / FILE)], export)


async def _write(state: Path, entries: int) -> None:
    clock = SimulatedClock()
    clock.shift_wall(RealClock().wall() - 2 * ADJUSTMENTS_KEPT_S - clock.wall())
    journal = Journal(SqliteStore.open(state), clock, at_once=True)
    await Desk(journal, catalogue([digits.NAME]), Nobody(), clock).begin(Wanted(), "0.1.0")

    def adjusted(so_far: State) -> Sequence[Adjusted]:
        numbers = range(so_far.seq, min(so_far.seq + JOURNAL_BATCH, entries))
        knobs = [(ROWS, IN_FLIGHT)[number % 2] for number in numbers]
        return [Adjusted(Adjustment(knob, 1, 2, "as a rule says")) for knob in knobs]

    while journal.state.seq < entries:
        await journal.write(adjusted, "a rule")
    await journal.close()


def long(history: History) -> Life:
    return Life("a long history", work_long, found=history.disk, history=history.records)


def imported(history: History) -> Life:
    return Life(
        "an import",
        work_little,
        signal.SIGKILL,
        before=f"paceline journal import {shlex.quote(str(history.export))}\n",
        lines=1,
        history=history.records,
        export=history.export,
    )


def second(image: Image, place: Path) -> Life:
    """On what a loss of power has left of KILLED; it is written to `place` to be read."""
    image.write_to(place)
    return KILLED._replace(
        about="a start after a loss of power",
        before=KEYS_CHANGED.format("second", "fourth"),
        lines=2,
        found=image.tree,
        history=[*read_file(place / STATE / FILE)],
        value=200,
    )


# --- What a life leaves ---------------------------------------------------------------------------


class Lived(NamedTuple):
    """`written` are the records as they were first, `left` those on the disk at the end;
    `states[n]` is what the first n amount to. Entry `compacted_at` came with the end of old ones;
    it is beyond the last where none did. `keys` is what the key file holds, id and hash, at
    the start and after each command."""

    life: Life
    recording: Recording
    written: Sequence[Record]
    left: Mapping[int, Record]
    states: Sequence[State]
    compacted_at: int
    keys: Sequence[Mapping[str, str]]
    together: Sequence[int]


def lived(life: Life, place: Path, planted: str = "") -> Lived:
    """Lives it below `place`, which does not exist. A planted fault is a program that spoils the
    product before it begins."""
    place.mkdir()
    disk, settings, log = place / "disk", place / "paceline.toml", place / "log"
    Image(life.found, (), "").write_to(disk)
    settings.write_text(AT_FIRST)
    keys: list[Mapping[str, str]] = [
        {key.id: key.sha256 for key in KeyFile(disk / STATE / KEYS).load()}
    ]
    program = '-c "$PLANTED"' if planted else "-m paceline"
    script = SCRIPT.format(program=program, before=life.before)
    if life.work:
        script += SERVE.format(program=program)
    environ = {
        **os.environ,
        "PYTHON": sys.executable,
        "PLANTED": f"{planted}\nfrom paceline.__main__ import main\nmain()",
        "STATE": str(disk / STATE),
        "CONFIG": str(settings),
        "LOG": str(log),
    }
    serving: list[Serving] = []

    def drive(process: "subprocess.Popen[bytes]") -> None:
        lines = _lines(process, log)
        for _ in range(life.lines + bool(life.work)):
            line = next(lines)
            if "address" in line:
                port = int(line["address"].rpartition(":")[2])
                serving.append(Serving(process, port, settings))
            elif "id" in line:
                keys.append(_keys_after(keys[-1], line))
        if life.work:
            life.work(serving[0], life.value)
            serving[0].end(life.end)

    recording = record(["sh", "-ec", script], disk, environ, drive, acknowledged=ACKNOWLEDGED)
    left = [*read_file(disk / STATE / FILE)] if life.work else []
    written = [*life.history, *(each for each in left if each.seq > len(life.history))]
    assert [each.seq for each in written] == [*range(1, len(written) + 1)]
    entries = [to_entry(each) for each in written]
    states = [*itertools.accumulate(entries, fold, initial=NOTHING)]
    for told in serving[0].told if serving else ():
        assert is_kept(told, entries[told.seq - 1].body), (told, entries[told.seq - 1])
    return Lived(
        life,
        recording,
        written,
        {each.seq: each for each in left},
        states,
        next((each.seq for each in entries if isinstance(each.body, Compacted)), len(states)),
        keys,
        serving[0].together if serving else (),
    )


def _lines(process: "subprocess.Popen[bytes]", log: Path) -> Iterator[Any]:
    assert process.stdout is not None
    for text in process.stdout:
        line = json.loads(text)
        assert line, f"a command failed:\n{log.read_text()}"
        yield line
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def _keys_after(keys: Mapping[str, str], line: Mapping[str, str]) -> Mapping[str, str]:
    if "key" not in line:
        return {key: sha256 for key, sha256 in keys.items() if key != line["id"]}
    return {**keys, line["id"]: hashlib.sha256(line["key"].encode()).hexdigest()}


def is_kept(told: Told, body: Body) -> bool:
    """Whether the entry says what the caller wished for and was answered."""
    wish = told.wish
    if isinstance(body, Adjusted):
        moved = body.adjustment
        asked_for = (wish["knob"], wish.get("value"), wish["reason"])
        return told.action == "adjust" and asked_for == (moved.knob, moved.after, moved.reason)
    if not isinstance(body, PlanChanged):
        return False
    change = body.change
    if (body.version, body.hash, change.reason) != (told.version, told.hash, wish["reason"]):
        return False
    if told.action in ("rollback", "undo"):
        meant = change.restores if told.action == "rollback" else change.undoes
        return meant is not None and meant == wish["version"]
    line = next((step.after for step in change.diff if step.knob == wish["knob"]), None)
    if line is None:
        return False
    made, asked = (line.value if told.action == "set" else line.pin), wish.get("value")
    return made == asked and type(made) is type(asked)


# --- What must hold -------------------------------------------------------------------------------


class Acknowledgements(NamedTuple):
    """What somebody may have been told before the power went."""

    seq: int
    version: int
    keys: int


def acknowledged(image: Image) -> Acknowledgements:
    def last(name: bytes) -> int:
        markers = [each.rpartition(b":") for each in image.acknowledged]
        return max((int(n) for said, _, n in markers if said.endswith(name)), default=0)

    keys = sum(each.startswith(b"created") for each in image.acknowledged)
    return Acknowledgements(last(b'seq"'), last(b'version"'), keys)


class Judged(NamedTuple):
    image: Image
    amiss: str | None


def judge(lived: Lived, seed: int, count: int, scratch: Path) -> Iterator[Judged]:
    """Draws so many images, and says of each what is amiss in it, None where nothing is."""
    for image in images(lived.recording, seed, count):
        place = scratch / "image"
        image.write_to(place)
        found = _amiss(lived, acknowledged(image), place / STATE)
        shutil.rmtree(place)
        yield Judged(image, f"{found} ({lived.life.about}, {image.description})" if found else None)


def _amiss(lived: Lived, told: Acknowledgements, state: Path) -> str | None:
    if not state.exists():
        return "what was acknowledged is lost with its directory" if any(told) else None
    try:
        return _amiss_in_keys(lived, told, state) or _amiss_in_journal(lived, told, state)
    except PacelineError as error:
        return f"{error.cause}: {error.value}"


def _amiss_in_keys(lived: Lived, told: Acknowledgements, state: Path) -> str | None:
    found = {key.id: key.sha256 for key in KeyFile(state / KEYS).load()}
    if found in lived.keys[told.keys : told.keys + 2]:  # the next command may have got as far
        return None
    return f"the keys are {sorted(found)} after {told.keys} commands that were acknowledged"


def _amiss_in_journal(lived: Lived, told: Acknowledgements, state: Path) -> str | None:
    life = lived.life
    there = told.seq or (life.history and not life.export)
    findings = _findings(state) if there else ()  # before anybody opens and thereby mends it
    with closing(SqliteStore.open(state)) as store:
        now = Journal(store, RealClock()).state
        found = {each.seq: each for each in store.read()}
    last = max(found, default=0)
    if last < told.seq:
        return f"entry {told.seq} was acknowledged and is lost; the last is {last}"
    if last < len(life.history) and (last or not life.export):
        return f"{last} of {len(life.history)} entries are left of what was there before"
    if last >= len(lived.states):
        return f"nobody wrote entry {last}"
    for each in lived.written[:last]:
        right = lived.left.get(each.seq) if last >= lived.compacted_at else each
        if found.get(each.seq) != right:
            return f"entry {each.seq} is not what was written: {found.get(each.seq)}"
    if now != lived.states[last]:
        return f"the Plan is not what {last} entries amount to"
    if now.plan.version < told.version:
        return f"plan {told.version} was acknowledged and is lost"
    if findings:
        return f"the check finds damage: {findings[0]}"
    if life.export and not last:  # what is left of the first import is in nobody's way
        with life.export.open("rb") as stream:
            import_lines(stream, state)
    return None


def _findings(state: Path) -> Sequence[str]:
    try:
        return inspect(state / FILE).findings
    except PacelineError as error:
        return (error.cause,)


def start_again(lived: Lived, image: Image, place: Path) -> None:
    """A real server starts on the image, serves, and tells of the last acknowledged entry."""
    image.write_to(place)
    seq = acknowledged(image).seq
    with Server(place / STATE, "--fronts", "1") as server:
        assert server.ask("POST", "/predict/digits", digits.SAMPLE_ROW).status == 200
        told = server.ask("GET", f"/api/journal?before={seq + 1}&limit=1").json["entries"]
    if seq > len(lived.life.history):  # an older one may have been summarized by now
        (entry,) = told
        assert (entry["seq"], entry["body"]) == (seq, json.loads(lived.written[seq - 1].body))


# --- Faults that must be found --------------------------------------------------------------------

PLANTED = {
    "synchronous=OFF": "import paceline.journal.sqlite as s; s.SYNCHRONOUS = 'OFF'",
    "synchronous=NORMAL": "import paceline.journal.sqlite as s; s.SYNCHRONOUS = 'NORMAL'",
    "acknowledged before the commit": """
from paceline.journal.journal import Journal

late, commit, close = [], Journal._append, Journal.close


def answer_first(journal, group):
    late.append(group)
    return commit(journal, late.pop(0)) if len(late) > 1 else None


async def close_at_last(journal):
    for group in late:
        commit(journal, group)
    await close(journal)


Journal._append, Journal.close = answer_first, close_at_last
""",
}
"""A fault of the journal each, as what a program does to the product before it begins."""

KEYS_NOT_SYNCED = "import os; os.fsync = lambda fd: None"
