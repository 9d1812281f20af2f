"""The page in a real browser, against a real server."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from paceline.serve.digits import SAMPLE_ROW
from servers import Server

pytestmark = [pytest.mark.slow, pytest.mark.needs("chromium")]

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 30_000
SEVEN = [(2.0, 1.2), (5.5, 1.2), (3.5, 6.8)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        yield browser
        browser.close()


@contextmanager
def looking(browser: Browser, address: str, width: int = 1200) -> Iterator[Page]:
    """A page of a new browser profile; whatever breaks in its script fails the test."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(error.message))
    page.on(
        "console",
        lambda said: broken.append(said.text) if "Content Security" in said.text else None,
    )
    page.goto(address)
    yield page
    context.close()
    assert not broken


def is_ready(page: Page) -> None:
    expect(page.locator("#state")).to_have_text("Ready")


def predict(server: Server, times: int) -> None:
    for _ in range(times):
        assert server.ask("POST", "/predict/digits", SAMPLE_ROW).status == 200


def draw(page: Page, places: list[tuple[float, float]]) -> None:
    """One stroke of the mouse over the pad; places are in squares."""
    box = page.locator("#pad").bounding_box()
    assert box is not None
    points = [
        (box["x"] + x * box["width"] / 8, box["y"] + y * box["height"] / 8) for x, y in places
    ]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
    page.mouse.up()


def create_key(state: Path, name: str, role: str) -> str:
    command = [sys.executable, "-m", "paceline", "key", "create", name, "--role", role]
    made = subprocess.run(
        [*command, "--state", str(state), "--json"], check=True, capture_output=True
    )
    return str(json.loads(made.stdout)["key"])


def log_in(page: Page, key: str) -> None:
    page.fill("#key", key)
    page.keyboard.press("Enter")


class Bar(NamedTuple):
    """Of the chart, one for each step between two statuses."""

    height_percent: float
    width_s: float


def bars(page: Page) -> list[Bar]:
    path = page.locator("#rate-bars").get_attribute("d") or ""
    found = re.findall(r"100V(-?[\d.]+)h(-?[\d.]+)", path)
    assert len(found) == path.count("M")
    return [Bar(100 - float(top), -float(leftwards)) for top, leftwards in found]


def test_numbers_go_up_when_requests_are_sent(tmp_path: Path, browser: Browser) -> None:
    with Server(tmp_path / "state") as server, looking(browser, server.address) as page:
        is_ready(page)
        requests = page.locator("#rows tr:first-child td").first
        expect(requests).to_have_text("0")
        predict(server, 20)
        expect(requests).to_have_text("20")
        expect(page.locator("#rows")).to_contain_text("ms")
        expect(page.locator("#rate-peak")).to_have_text(re.compile(r"[1-9]"))
        assert max(bar.height_percent for bar in bars(page)) > 0
        server.ask("POST", "/predict/digits", [1, 2, 3])
        expect(page.locator("#errors")).to_have_text("1")
        expect(page.locator("#refused-codes")).to_contain_text("bad input 1")


def test_drawing_predicts_by_mouse_and_by_keyboard(tmp_path: Path, browser: Browser) -> None:
    with Server(tmp_path / "state") as server, looking(browser, server.address) as page:
        is_ready(page)
        draw(page, SEVEN)
        expect(page.locator("#guess")).to_have_text("7")
        page.click("#clear")
        expect(page.locator("#guess")).to_have_text("–")
        page.focus("#pad")
        for key in ["ArrowRight"] * 4 + ["Space", "ArrowDown"] * 8:  # a stroke from top to bottom
            page.keyboard.press(key)
        expect(page.locator("#guess")).to_have_text("1")


def test_a_wrong_key_is_explained_and_a_right_one_opens(tmp_path: Path, browser: Browser) -> None:
    state = tmp_path / "state"
    admin = create_key(state, "me", "admin")
    client = create_key(state, "app", "client")
    with (
        Server(state, "--require-keys") as server,
        looking(browser, server.address) as page,
    ):
        wrong = page.locator("#login-wrong")
        expect(page.locator("#login")).to_be_visible()
        expect(page.locator("main")).to_be_hidden()
        log_in(page, "pl_" + "a" * 26)
        expect(wrong).to_contain_text("unknown or revoked")
        log_in(page, client)
        expect(wrong).to_contain_text("role is client")
        log_in(page, admin)
        is_ready(page)
        expect(page.locator("#login")).to_be_hidden()
        draw(page, SEVEN)
        expect(page.locator("#guess")).to_have_text("7")
        assert page.evaluate("document.cookie") == ""  # the script cannot read it


def test_the_stop_button_asks_and_then_drains(tmp_path: Path, browser: Browser) -> None:
    with Server(tmp_path / "state") as server, looking(browser, server.address) as page:
        is_ready(page)
        page.click("#stop")
        page.click("#stop-no")
        expect(page.locator("#stopping")).to_be_hidden()
        page.click("#stop")
        page.click("#stop-yes")
        assert server.process.wait(timeout=30) == 0
        expect(page.locator("#state")).to_have_text("Stopped")
        assert "asked by" in server.log.read_text()


def test_a_lost_server_greys_the_numbers_and_a_new_one_revives_them(
    tmp_path: Path, browser: Browser
) -> None:
    first = Server(tmp_path / "first")
    with first, looking(browser, first.address) as page:
        is_ready(page)
        predict(first, 20)
        requests = page.locator("#rows tr:first-child td").first
        expect(requests).to_have_text("20")
        first.stop()
        expect(page.locator("main")).to_have_class("stale")
        expect(page.locator("#news-age")).to_contain_text(re.compile(r"\d+ s old"))
        expect(page.locator("#stop")).to_be_disabled()
        with Server(tmp_path / "second", "--port", str(first.port)) as second:
            is_ready(page)
            expect(page.locator("main")).not_to_have_class("stale")
            expect(requests).to_have_text("0")
            before = len(bars(page))
            page.wait_for_function(
                "count => document.getElementById('rate-bars').getAttribute('d')"
                ".split('M').length - 1 > count",
                arg=before,
            )
            assert all(0 <= bar.height_percent <= 100 and bar.width_s > 0 for bar in bars(page))
            predict(second, 3)
            expect(requests).to_have_text("3")


@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_fits_and_asks_nobody_else(tmp_path: Path, browser: Browser, width: int) -> None:
    with Server(tmp_path / "state") as server, looking(browser, server.address, width) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.reload()
        is_ready(page)
        assert asked
        assert all(url.startswith((server.address, "data:")) for url in asked)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


HOSTILE = """<!doctype html><title>hostile</title>
<form id="form" method="post" enctype="text/plain" action="TARGET/api/shutdown">
<input name='{"a": "' value='"}'></form>
<script>
const attempt = (path, options) => fetch("TARGET" + path, {credentials: "include", ...options})
  .then((answer) => answer.type, () => "rejected");
</script>"""


@contextmanager
def hostile_page(target: str) -> Iterator[str]:
    """The address of a page of another origin: the same host, another port."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = HOSTILE.replace("TARGET", target).encode()
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("logged_in", [False, True], ids=["open", "logged in"])
def test_a_page_of_another_origin_cannot_stop_the_server(
    tmp_path: Path, browser: Browser, logged_in: bool
) -> None:
    state = tmp_path / "state"
    key = create_key(state, "me", "admin")
    options = ["--require-keys"] if logged_in else []
    with (
        Server(state, *options) as server,
        hostile_page(server.address) as hostile,
        looking(browser, server.address) as page,
    ):
        if logged_in:
            log_in(page, key)
        is_ready(page)
        page.goto(hostile)

        def attempt(path: str, options: Mapping[str, object]) -> str:
            script = "([path, options]) => attempt(path, options)"
            return str(page.evaluate(script, [path, dict(options)]))

        as_json = {"method": "POST", "headers": {"content-type": "application/json"}, "body": "{}"}
        as_text = {"method": "POST", "headers": {"content-type": "text/plain"}, "body": "{}"}
        assert attempt("/api/shutdown", as_json) == "rejected"
        assert attempt("/api/shutdown", as_text) == "rejected"
        assert attempt("/api/shutdown", {"method": "POST"}) == "rejected"
        assert attempt("/api/shutdown", {**as_text, "mode": "no-cors"}) == "opaque"
        assert attempt("/api/status", {}) == "rejected"  # it may be asked, but not read
        with page.expect_navigation():
            page.evaluate("document.getElementById('form').submit()")
        assert "foreign_origin" in page.content()

        assert server.ask("GET", "/health/ready").status == 200
        status = server.ask("GET", "/api/status", headers={"x-api-key": key}).json
        assert status["ready"]
        assert status["refused"]["foreign_origin"] >= 4  # they came, and were refused
