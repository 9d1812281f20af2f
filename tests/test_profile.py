"""Profiles: of stacks, of memory, of a model's operators; and of a running server, by who may.

What a look sees of threads is the kernel's and the interpreter's word, so of that only what must be
so is asked for: most of many looks at a thread that spins, or that waits.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from kernel import state
from paceline.access.keys import KeyFile
from paceline.cli import flame, profile, profile_page, profiled
from paceline.cli.reach import Method
from paceline.clock import Chance, SimulatedClock, run_simulated
from paceline.observe import holdings, stacks
from paceline.observe.looks import Found, Look
from paceline.observe.stacks import Stack, Stacks, Thread
from paceline.serve import operator_run
from paceline.serve.model_source import ModelSource
from paceline.serve.operator_run import Event, Made
from paceline.terms.errors import Conflict, NotFound, NotMeasured, NotOffered, UnknownModel
from paceline.terms.limits import (
    LINK_BULK_BYTES,
    PROFILE_ASKED_S,
    PROFILE_BOXES,
    PROFILE_DEPTH,
    PROFILE_FRAMES,
    PROFILE_KEPT_S,
    PROFILE_NAME_CHARS,
    PROFILE_STACKS,
    PROFILE_THREADS,
    PROFILE_UNASKED_S,
)
from paceline.web.messages import Profiled
from paceline.web.profile_api import EndProfileBody, ProfileBody, ProfileQuery, ProfileView
from paceline.web.profiles import Profiles
from servers import Answer, Server
from test_cli import here, refused
from test_plan_live import until

HZ = 100.0


# --- Looking at stacks ----------------------------------------------------------------------------


class Ticks(threading.Event):
    """Time that passes while it is waited for; each wait lasts a period, or several."""

    def __init__(self, periods: int = 1, meanwhile: Callable[[], Any] = lambda: None) -> None:
        super().__init__()
        self.now_s = 0.0
        self._periods = periods
        self._meanwhile = meanwhile

    def wait(self, timeout: float | None = None) -> bool:
        self._meanwhile()
        self.now_s += self._periods / HZ
        return self.is_set()


def taken(seconds: float, periods: int = 1) -> Stacks:
    ticks = Ticks(periods)
    return stacks.take(seconds, ticks, lambda: ticks.now_s, HZ)


def waits_at(name: str, code: CodeType) -> bool:
    """For the kernel too: in that function it may still be on its way."""
    (thread,) = (each for each in threading.enumerate() if each.name == name)
    assert thread.ident is not None
    at = sys._current_frames()[thread.ident].f_code
    return at is code and state("self", thread.native_id) == "S"


@contextmanager
def running(*targets: Callable[[], object]) -> Iterator[None]:
    threads = [threading.Thread(target=each, name=each.__name__) for each in targets]
    for each in threads:
        each.start()
    yield
    for each in threads:
        each.join()


@pytest.mark.parametrize("kernel_tells", [True, False])
def test_a_thread_that_works_is_told_from_one_that_waits(
    kernel_tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel_tells:
        monkeypatch.setattr(stacks._Seen, "_call", lambda self, thread: [""])
    end = threading.Event()

    over: list[bool] = []

    def spins() -> None:
        while not over:  # and calls nothing of `threading`, where it could be seen for all looks
            sum(range(100))

    def waits() -> None:
        end.wait()

    with running(spins, waits):
        until("it waits", lambda: waits_at("waits", threading.Condition.wait.__code__))
        try:
            found = taken(2.0)
        finally:
            over.append(True)
            end.set()
    seen = {each.name: each for each in found.threads}
    assert seen["spins"].samples == seen["waits"].samples == found.samples
    assert seen["spins"].waited < found.samples / 2 < seen["waits"].waited
    of_spins = [line for line in stacks.folded(found) if line.startswith("spins;")]
    assert any("test_profile.test_a_thread_that_works" in line for line in of_spins)


@pytest.mark.parametrize("periods", [1, 5])
def test_a_look_that_came_late_counts_for_those_it_missed(periods: int) -> None:
    found = taken(2.0, periods)
    assert found.looks == pytest.approx(200 / periods, abs=1)
    assert found.samples == pytest.approx(200, abs=periods)


def test_a_stop_ends_it_with_what_there_is() -> None:
    ticks = Ticks(meanwhile=lambda: ticks.set() if ticks.now_s > 0.5 else None)
    found = stacks.take(60.0, ticks, lambda: ticks.now_s, HZ)
    assert 40 <= found.samples <= 60


def test_what_goes_beyond_a_bound_is_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()

    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        else:
            end.wait()

    def deeper() -> None:
        deep(3 * PROFILE_DEPTH)

    with running(deeper):
        try:
            found = taken(0.5)
            monkeypatch.setattr(stacks, "PROFILE_FRAMES", 2)
            monkeypatch.setattr(stacks, "PROFILE_STACKS", 1)
            monkeypatch.setattr(stacks, "PROFILE_THREADS", 1)
            least = taken(0.5)
        finally:
            end.set()
    cut = [each for each in found.stacks if len(each.frames) == PROFILE_DEPTH]
    assert any(found.frames[each.frames[-1]] == stacks.DEEPER for each in cut)
    assert max(len(each.frames) for each in found.stacks) == PROFILE_DEPTH
    assert len(least.threads) == 1
    assert len(least.frames) <= 3
    assert len(least.stacks) <= 3
    assert sum(each.samples for each in least.stacks) >= least.samples


def test_the_longest_profile_fits_a_message() -> None:
    name = "\N{GRINNING FACE}" * PROFILE_NAME_CHARS
    assert stacks.named(name) == name
    frames = (name,) * PROFILE_FRAMES
    threads = (Thread(name, 1000.1234, 1000.1234, 10**6, 10**6),) * PROFILE_THREADS
    deep = Stack(PROFILE_THREADS - 1, True, 10**6, (PROFILE_FRAMES - 1,) * PROFILE_DEPTH)
    found = Stacks(999.999, HZ, 10**6, 10**6, 99.9999, frames, threads, (deep,) * PROFILE_STACKS)
    told = Profiled(msgspec.Raw(msgspec.json.encode(Found(stacks=found))))
    assert len(msgspec.json.encode(told)) <= LINK_BULK_BYTES


@given(st.text())
def test_no_name_breaks_a_folded_line(text: str) -> None:
    name = stacks.named(text)
    assert len(name) <= PROFILE_NAME_CHARS
    assert not set("; \n\r\t") & set(name)
    assert len(name.splitlines()) <= 1


# --- Drawing it -----------------------------------------------------------------------------------

names = st.sampled_from(["paceline.a", "paceline.b", "numpy.c", "<script>alert(1)</script>"])
of_stacks = st.lists(
    st.tuples(st.integers(0, 1), st.booleans(), st.lists(st.integers(0, 3), max_size=5)),
    max_size=30,
)


def made(seen: list[tuple[int, bool, list[int]]]) -> Stacks:
    counted = tuple(
        Stack(thread, waits, 1 + at % 7, tuple(frames))
        for at, (thread, waits, frames) in enumerate(seen)
    )
    threads = tuple(Thread(name, 0.1, 0.0, 10, 5) for name in ("MainThread", "other"))
    frames = ("paceline.a", "paceline.b", "numpy.c", "<script>alert(1)</script>")
    return Stacks(1.0, HZ, 10, 10, 0.01, frames, threads, counted)


@given(of_stacks)
def test_boxes_below_a_box_are_no_wider_than_it_and_the_folded_lines_say_the_same(
    seen: list[tuple[int, bool, list[int]]],
) -> None:
    found = made(seen)
    whole = flame._tree(found)
    boxes = [*flame._boxes(whole, 0, 0)]
    for box in boxes:
        below = [
            each
            for each in boxes
            if each.row == box.row + 1 and box.began <= each.began < box.began + box.samples
        ]
        assert sum(each.samples for each in below) <= box.samples
        assert all(each.began + each.samples <= box.began + box.samples for each in below)
    lines = [*stacks.folded(found)]
    works = sum(int(line.rpartition(" ")[2]) for line in lines if f";{stacks.WAITS} " not in line)
    assert whole.samples == works == profiled.busy(found)
    own = sum(each.own for each in profiled.functions(found))
    assert own == sum(each.samples for each in found.stacks if each.frames and not each.waits)


@given(of_stacks)
def test_a_page_runs_no_script_but_its_own(seen: list[tuple[int, bool, list[int]]]) -> None:
    view = ProfileView("p1", "stacks", "front 0", False, "", stacks=made(seen))
    html = profile_page.page(view)
    assert html.startswith(profile_page.OPENING)
    assert html.count("<script") == 1
    assert flame.POLICY in html


def test_of_very_many_boxes_the_widest_are_drawn() -> None:
    many = tuple(Stack(0, False, 1 + at % 2, (at,)) for at in range(2 * PROFILE_BOXES))
    frames = tuple(f"f{at}" for at in range(2 * PROFILE_BOXES))
    threads = (Thread("MainThread", None, None, 1, 0),)
    drawn = flame.flame(Stacks(1.0, HZ, 1, 1, None, frames, threads, many))
    assert drawn.count("<title>") <= PROFILE_BOXES
    assert "all threads" in drawn


# --- Memory ---------------------------------------------------------------------------------------

SMAPS = """\
5581-5582 rw-p 00000000 00:00 0                          [heap]
Size:                 64 kB
Rss:                  60 kB
Pss:                  60 kB
Private_Dirty:        56 kB
Private_Clean:         4 kB
Swap:                  8 kB
VmFlags: rd wr mr mw me ac sd
7f00-7f01 rw-p 00000000 00:00 0
Rss:                  10 kB
Pss:                  10 kB
7f02-7f03 r-xp 00000000 08:01 42   /opt/a folder/lib x.so.1
Rss:                 100 kB
Pss:                  50 kB
7f04-7f05 rw-s 00000000 00:01 7    /memfd:paceline-board (deleted)
Rss:                   4 kB
Pss:                   2 kB
7f06-7f07 r--p 00000000 08:01 9    /models/a.onnx
Rss:                   1 kB
Pss:                   1 kB
"""


def test_mappings_are_summed_up_by_kind() -> None:
    found = {each.kind: each for each in holdings.mapped(SMAPS.splitlines())}
    assert next(iter(found)) == "heap and arenas"
    heap = found["heap and arenas"]
    assert (heap.mappings, heap.pss_bytes, heap.own_bytes) == (2, 70 * 1024, 60 * 1024)
    assert heap.swapped_bytes == 8 * 1024
    assert found["native libraries"].pss_bytes == 50 * 1024
    assert found["shared memory"].rss_bytes == 4 * 1024
    assert found["model files"].mappings == 1


class Held:
    """What a leak would hold."""


def test_memory_is_told_by_class_and_by_line() -> None:
    held: list[Any] = [Held() for _ in range(20_000)]
    found = holdings.look(0.0, threading.Event())
    assert found.growth is None
    assert next(each.objects for each in found.classes if each.name.endswith(".Held")) >= 20_000
    assert sum(each.pss_bytes for each in found.mapped) > 10e6
    leaking = Ticks(meanwhile=lambda: held.append(bytearray(1_000_000)))
    grown = holdings.look(1.0, leaking).growth
    assert grown is not None
    assert grown.lines[0].bytes >= 1_000_000
    assert "test_profile.py:" in grown.lines[0].where
    assert holdings.look(0.0, threading.Event()).growth is None  # nothing is followed any more


# --- Operators ------------------------------------------------------------------------------------


def trace(runs: int) -> Iterator[Event]:
    """Of a model of a MatMul and two Adds; the first run takes long."""
    for at in range(runs):
        began = 1000 * at
        yield Event("Session", "model_run", began, 100)
        slow = 50 if at == 0 else 1
        shapes = {
            "input_type_shape": [{"float": [8, 64]}],
            "output_type_shape": [{"float": [8, 2]}],
        }
        yield Event("Node", "m_kernel_time", began + 1, 6 * slow, {"op_name": "MatMul", **shapes})
        yield Event("Node", "a_kernel_time", began + 20, 3 * slow, {"op_name": "Add"})
        yield Event("Node", "b_kernel_time", began + 30, 1 * slow, {"op_name": "Add"})
        yield Event("Node", "b_fence_before", began + 30, 500)


def test_a_trace_is_told_by_operator_and_node_without_its_first_run() -> None:
    made_up = (Made("x", "FP32", (8, 64)),)
    found = operator_run.told("m", 1.0, made_up, trace(11))
    assert found.runs == 10
    assert [(each.name, each.nodes, each.calls) for each in found.kinds] == [
        ("MatMul", 1, 10),
        ("Add", 2, 20),
    ]
    assert found.kinds[0].total_ms == pytest.approx(0.06)
    assert sum(each.share for each in found.kinds) == pytest.approx(1.0)
    assert found.nodes[0].shapes == "8x64 to 8x2"
    with pytest.raises(NotMeasured):
        operator_run.told("m", 1.0, made_up, trace(1))


def test_a_model_is_run_on_inputs_that_are_made_up_until_it_has_been_seen_enough(
    tmp_path: Path,
) -> None:
    """Squares of 4: other lengths do not run."""
    sizes = ["rows", "length"]
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "to"], ["y"])],
        "squares",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("to", TensorProto.INT64, [3], [0, 2, 2])],
    )
    path = tmp_path / "squares.onnx"
    opset = [helper.make_opsetid("", 17)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    )
    run = operator_run.Run("squares", str(path), str(tmp_path), 0.05, 8, 4)
    found = operator_run.profile(run, lambda: False)
    assert found.inputs == (Made("x", "FP32", (8, 4)),)
    assert [each.name for each in found.kinds] == ["Reshape"]
    assert found.kinds[0].calls == found.runs > 0
    assert operator_run.profile(run, lambda: True).runs == 1  # somebody said that it should end
    with pytest.raises(NotMeasured, match="made up"):
        operator_run.profile(msgspec.structs.replace(run, length=5), lambda: False)


# --- Whoever keeps them ---------------------------------------------------------------------------


class OneFront:
    """Looks at itself until told to end."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self.found: Any = None
        self.ends = 0

    def profile(self, index: int, look: Look, model: str = "") -> Any:
        if self.found is not None and not self.found.done():
            raise Conflict("it is being profiled already", remedy="Wait.")
        self.found = self._loop.create_future()
        return self.found

    def end_profile(self, index: int) -> None:
        self.ends += 1
        self.found.set_result(msgspec.Raw(b'{"memory":{}}'))


def kept(main: Callable[[Profiles, OneFront, SimulatedClock], Any]) -> None:
    async def run(clock: SimulatedClock, chance: Chance) -> None:
        import asyncio

        front = OneFront(asyncio.get_running_loop())
        models = (ModelSource("digits"), ModelSource("py", python="a.py:f"))
        profiles = Profiles(front, models, {}, lambda model: None, clock.now)  # type: ignore[arg-type]
        await main(profiles, front, clock)

    run_simulated(run)


def test_a_profile_that_nobody_asks_after_ends_and_is_kept_for_a_while() -> None:
    async def main(profiles: Profiles, front: OneFront, clock: SimulatedClock) -> None:
        begun = await profiles._begin(None, ProfileBody(seconds=100.0), "anna")
        with pytest.raises(Conflict):
            await profiles._begin(None, ProfileBody(of="memory"), "anna")
        for _ in range(20):  # whoever asks keeps it going
            assert (await profiles._ask(ProfileQuery(begun.id), None, "anna")).running
        assert clock.now() == pytest.approx(20 * PROFILE_ASKED_S, abs=0.1)
        assert front.ends < 1
        await clock.until(clock.now() + PROFILE_UNASKED_S + 0.1)
        assert front.ends == 1
        told: Any = await profiles._ask(ProfileQuery(begun.id), None, "anna")
        assert (told["running"], told["ended"]) == (False, "nobody asked after it")
        await clock.until(clock.now() + PROFILE_KEPT_S + 0.1)
        with pytest.raises(NotFound):
            await profiles._ask(ProfileQuery(begun.id), None, "anna")
        again = await profiles._begin(None, ProfileBody(), "anna")
        assert (await profiles._end(None, EndProfileBody(again.id), "anna")).was_running
        await profiles._ask(ProfileQuery(again.id), None, "anna")
        assert not (await profiles._end(None, EndProfileBody(again.id), "anna")).was_running

    kept(main)


def test_models_without_operators_are_refused_by_name() -> None:
    async def main(profiles: Profiles, front: OneFront, clock: SimulatedClock) -> None:
        with pytest.raises(NotOffered):
            await profiles._begin(None, ProfileBody(of="operators", model="py"), "anna")
        with pytest.raises(UnknownModel):
            await profiles._begin(None, ProfileBody(of="operators", model="dogits"), "anna")

    kept(main)


# --- A running server -----------------------------------------------------------------------------


class Keyed:
    def __init__(self, state: Path) -> None:
        keys = KeyFile(state / "keys.json")
        self.admin, self.client = (
            {"Authorization": f"Bearer {keys.create(role, role, 0.0)[1]}"}
            for role in ("admin", "client")
        )
        self.temporary = state.parent / "temporary"
        self.temporary.mkdir()
        environ = {"TMPDIR": str(self.temporary)}
        self.server = Server(state, "--require-keys", environ=environ)

    def begin(self, **asked: Any) -> Answer:
        return self.server.ask("POST", "/api/profile", asked, headers=self.admin)

    def ask(self, name: str) -> Answer:
        return self.server.ask("GET", f"/api/profile?id={name}", headers=self.admin)

    def end(self, name: str) -> Answer:
        return self.server.ask("POST", "/api/profile/end", {"id": name}, headers=self.admin)

    def found(self, name: str) -> Any:
        while (told := self.ask(name).json).get("running"):
            pass  # each answer waits
        return told


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    it = Keyed(tmp_path_factory.mktemp("keyed") / "state")
    with it.server:
        yield it


@contextmanager
def load(server: Server, headers: dict[str, str]) -> Iterator[None]:
    """One caller that asks the digits model as fast as it is answered."""
    end = threading.Event()
    body = json.dumps([0.0] * 64)

    def asks() -> None:
        connection = server.connect()
        while not end.is_set():
            connection.request(
                "POST", "/predict/digits", body, {"content-type": "application/json", **headers}
            )
            assert connection.getresponse().read()
        connection.close()

    with running(asks):
        try:
            yield
        finally:
            end.set()


def test_only_an_admin_may_profile(keyed: Keyed) -> None:
    for headers, status in (({}, 401), (keyed.client, 403)):
        answer = keyed.server.ask("POST", "/api/profile", {}, headers=headers)
        assert answer.status == status
    assert keyed.begin(seconds=1e9).status == 400
    assert keyed.begin(front=7).status == 404


def test_a_front_under_load_shows_our_functions_and_one_profile_at_a_time(keyed: Keyed) -> None:
    with load(keyed.server, keyed.client):
        begun = keyed.begin(seconds=0.6)
        assert begun.status == 202, begun
        assert keyed.begin(of="memory").status == 409
        assert keyed.begin(process="owner", of="memory").status == 202  # another process
        told = keyed.found(begun.json["id"])
    found = msgspec.convert(told["stacks"], Stacks)
    assert found.samples > 20
    assert any(each.startswith("paceline.serve.") for each in found.frames)
    assert any("run_front" in each for each in found.frames)
    assert profiled.busy(found) > 0


def test_an_end_ends_it_with_what_there_is_and_a_crash_says_so(keyed: Keyed) -> None:
    name = keyed.begin(seconds=100).json["id"]
    assert keyed.end(name).json == {"id": name, "was_running": True}
    told = keyed.found(name)
    assert told["ended"] == "asked"
    assert told["stacks"]["seconds"] < 50
    name = keyed.begin(seconds=100).json["id"]
    os.kill(keyed.server.fronts[0], signal.SIGKILL)
    answer = keyed.ask(name)
    assert answer.status == 503
    assert "front 0 ended" in answer.json["error"]


def test_a_model_is_run_beside_and_told_by_operator(keyed: Keyed, tmp_path: Path) -> None:
    page = tmp_path / "digits.html"
    state = str(keyed.server.state)
    before = keyed.server.ask("GET", "/metrics", headers=keyed.admin).body.decode()
    done = here("profile", "digits", "--rows", "3", "--state", state, "--out", str(page))
    assert done.returncode == 0, done
    assert "Gemm" in done.stdout
    assert "x FP32 3x64" in done.stdout
    assert "Gemm" in page.read_text()
    after = keyed.server.ask("GET", "/metrics", headers=keyed.admin).body.decode()
    for told in (before, after):  # no request of it was served
        assert 'paceline_rows_total{model="digits"} 1.0' not in told
    assert not [*keyed.temporary.iterdir()]
    assert here("profile", "digits", "--memory", "--state", state).returncode == 2


def test_the_command_tells_what_a_process_holds_and_does(keyed: Keyed, tmp_path: Path) -> None:
    state = str(keyed.server.state)
    done = here("profile", "owner", "--memory", "--state", state)
    assert done.returncode == 0, done
    assert "heap and arenas" in done.stdout
    done = here("profile", "owner", "--seconds", "0.2", "--folded", "--state", state)
    assert any(line.startswith("MainThread;") for line in done.stdout.splitlines())


TINY = """\
import paceline

@paceline.model(inputs={"x": ("FP32", [-1])}, outputs={"y": ("FP32", [-1])})
def same(batch):
    return batch["x"]
"""


def test_the_process_of_a_model_in_python_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    file = tmp_path / "paceline.toml"
    file.write_text('[models.tiny]\npython = "tiny.py:same"\n[models.digits]\n')
    with Server(tmp_path / "state", "--fronts", "1", "--config", str(file)) as server:
        state = ("--state", str(server.state))
        done = here("profile", "tiny", "--seconds", "0.2", *state)
        assert done.stdout.startswith("What tiny of front 0 did in ")
        lines = here("profile", "tiny", "--seconds", "0.2", "--folded", *state).stdout.splitlines()
        assert any("paceline.serve.model_host." in each for each in lines)
        assert not any("uvloop" in each or "asyncio" in each for each in lines), "no front"
        done = here("profile", "tiny", "--memory", *state)
        assert "What tiny of front 0 holds" in done.stdout
        refused(here("profile", "tiny", "--rows", "2", *state), 2, "without --rows")
        for more in ("--memory", "--folded"):
            refused(here("profile", "digits", more, *state), 2, "no process of its own")
        unknown = server.ask("POST", "/api/profile", {"process": "model", "model": "tinny"})
        assert unknown.json["code"] == "unknown_model"


def test_ctrl_c_ends_it_and_tells_what_there_is(
    keyed: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, asked = profile._call, []

    def interrupted(state: Path, method: Method, target: str, body: object = None) -> bytes:
        asked.append((method, target.partition("?")[0]))
        if asked.count(("GET", "/api/profile")) == 1 and method == "GET":
            raise KeyboardInterrupt
        return call(state, method, target, body)

    monkeypatch.setattr(profile, "_call", interrupted)
    state = str(keyed.server.state)
    done = here("profile", "owner", "--seconds", "100", "--state", state)
    assert done.returncode == 130
    assert "ended early" in done.stdout
    assert ("POST", "/api/profile/end") in asked
    assert keyed.begin(process="owner", of="memory").status == 202


def test_without_a_server_there_is_nothing_to_profile(tmp_path: Path) -> None:
    state = tmp_path / "s"
    refused(here("profile", "--state", str(state)), 6, "no server runs here")
    assert not state.exists()


@pytest.mark.slow
@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", [320, 1200])
def test_a_browser_looks_closer_where_a_box_is_clicked(width: int, tmp_path: Path) -> None:
    import shutil

    from playwright.sync_api import sync_playwright

    found = made([(0, False, [0, 1]), (0, False, [0, 2]), (1, False, [3])])
    place = tmp_path / "page.html"
    view = ProfileView("p1", "stacks", "front 0", False, "", stacks=found)
    place.write_text(profile_page.page(view))
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        args = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=chromium, args=args)
        page = browser.new_page(viewport={"width": width, "height": 900})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(place.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        box = page.locator("svg.flame > svg", has_text="paceline.a").first
        before = box.bounding_box()
        assert before is not None
        box.click()
        after = box.bounding_box()
        assert after is not None
        assert after["width"] > before["width"] * 1.2
        assert page.locator("svg.flame > svg:visible", has_text="script").count() == 0
        page.locator("svg.flame > svg").first.click()
        assert box.bounding_box() == before
        assert not said
        browser.close()
