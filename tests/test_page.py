"""The page in a real browser, against a real server."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from paceline.serve.digits import SAMPLE_ROW
from paceline.serve.knobs import KNOBS
from paceline.terms.limits import DRIFT_LEAST, DRIFT_REFERENCE, DRIFT_TOLD
from servers import Server
from test_drift import predict as ask_each

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
def looking(
    browser: Browser, address: str, width: int = 1200, zone: str | None = None
) -> Iterator[Page]:
    """A page of a new browser profile; whatever breaks in its script fails the test."""
    context = browser.new_context(viewport={"width": width, "height": 860}, timezone_id=zone)
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


def paceline(state: Path, *arguments: str) -> bytes:
    command = [sys.executable, "-m", "paceline", *arguments, "--state", str(state)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def create_key(state: Path, name: str, role: str) -> str:
    made = paceline(state, "key", "create", name, "--role", role, "--json")
    return str(json.loads(made)["key"])


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
        expect(page.locator("#rate-1")).to_have_text("–")  # no minute has passed
        expect(page.locator("#rows")).to_contain_text("ms")
        expect(page.locator("#rate-peak")).to_have_text(re.compile(r"[1-9]"))
        assert max(bar.height_percent for bar in bars(page)) > 0
        server.ask("POST", "/predict/digits", [1, 2, 3])
        expect(page.locator("#errors")).to_have_text("1")
        expect(page.locator("#refused-codes")).to_contain_text("bad input 1")


def test_the_last_llm_calls_are_shown_with_where_their_time_went(
    tmp_path: Path, browser: Browser
) -> None:
    with Server(tmp_path / "state") as server, looking(browser, server.address, 360) as page:
        is_ready(page)
        expect(page.locator("#last-calls")).to_be_hidden()
        said = [{"role": "user", "content": "a secret"}]
        for model in ("sim-small:tokens=3", "sim-small:400"):
            server.ask("POST", "/v1/chat/completions", {"model": model, "messages": said})
        rows = page.locator("#calls tr")
        expect(rows).to_have_count(2)
        expect(rows.nth(0)).to_contain_text("answered 400")
        expect(rows.nth(1)).to_contain_text("simulated")
        expect(rows.nth(1).locator(".times i")).to_have_count(3)
        bar = rows.nth(1).get_by_role("img").get_attribute("aria-label") or ""
        assert re.fullmatch("before .*, waited .*, told .*", bar)
        assert "secret" not in page.content()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_slowest_requests_are_shown_with_where_their_time_went(
    tmp_path: Path, browser: Browser
) -> None:
    with Server(tmp_path / "state") as server, looking(browser, server.address, 360) as page:
        is_ready(page)
        expect(page.locator("#slowest")).to_be_hidden()
        for name in ("one", "<b>two</b>"):
            headers = {"x-request-id": name}
            server.ask("POST", "/predict/digits", SAMPLE_ROW, headers=headers)
        rows = page.locator("#traces tr")
        expect(rows.first).to_contain_text("digits")
        expect(rows.first).to_contain_text("1 row, ")
        expect(rows.first.locator(".times i")).to_have_count(4)
        bar = rows.first.get_by_role("img").get_attribute("aria-label") or ""
        assert re.fullmatch("received .*, queued .*, computed .*, answered .*", bar)
        page.reload()
        expect(rows).to_have_count(2)
        expect(page.locator("#traces")).to_contain_text("<b>two</b>")
        page.get_by_label("last that failed").check()
        expect(page.locator("#no-traces")).to_have_text("None is kept.")
        expect(rows).to_have_count(0)
        headers = {"x-request-id": "late", "x-timeout-ms": "0.001"}
        server.ask("POST", "/predict/digits", SAMPLE_ROW, headers=headers)
        expect(rows).to_have_count(1)
        expect(rows.first).to_contain_text("late")
        why = server.ask("GET", "/api/traces?id=late&order=newest").json["traces"][0]["cause"]
        expect(rows.first.get_by_role("cell").nth(3)).to_have_text(why)
        page.get_by_label("slowest of the last hour").check()
        expect(rows.first).to_contain_text("1 row, ")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_how_good_a_model_is_and_what_has_drifted_is_shown(
    tmp_path: Path, browser: Browser
) -> None:
    rng = np.random.default_rng(9)
    with (
        Server(tmp_path / "state", "--fronts", "1", "--drift-rows-s", "10000") as server,
        looking(browser, server.address, 360) as page,
    ):
        is_ready(page)
        expect(page.locator("#quality")).to_be_hidden()
        for most, rows in ((17, DRIFT_REFERENCE + DRIFT_TOLD), (9, DRIFT_LEAST + DRIFT_TOLD)):
            ask_each(server.port, rng.integers(0, most, (rows, 64)))
        labels = [{"prediction": 3, "label": 3}] * 3 + [{"prediction": 3, "label": 8}]
        server.ask("POST", "/feedback", {"model": "digits", "labels": labels})
        cells = page.locator("#qualities tr").get_by_role("cell")
        expect(cells.nth(0)).to_have_text("75.0 %")
        expect(cells.nth(1)).to_have_text("30.1 to 95.4 %")
        expect(cells.nth(2)).to_have_text("4")
        expect(cells.nth(3)).to_have_text(re.compile(r"^\d\d of 76$"))
        expect(cells.nth(4)).to_have_text(re.compile(r"^mean of x\[\d+\]: [78].* → [345]\."))
        found = page.locator("#quality-found")
        expect(found).to_contain_text(
            "What is asked is other than in the reference: the mean of x["
        )
        expect(found).to_contain_text("paceline report digits --new-reference")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_what_no_budget_limits_is_told_in_red(tmp_path: Path, browser: Browser) -> None:
    costly = Server(tmp_path / "on", "--no-budget", environ={"OPENAI_API_KEY": "k"})
    with costly, looking(browser, costly.address) as page:
        told = page.locator("#no-budget")
        expect(told).to_have_text(re.compile("No budget limits what openai may cost"))
        colour = str(told.evaluate("each => getComputedStyle(each).color"))
        red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
        assert red > 2 * max(green, blue), colour
    free = Server(tmp_path / "off")
    with free, looking(browser, free.address) as page:
        is_ready(page)
        expect(page.locator("#no-budget")).to_have_text("")


def test_an_alert_appears_and_is_acknowledged(tmp_path: Path, browser: Browser) -> None:
    with Server(tmp_path / "state") as server, looking(browser, server.address) as page:
        is_ready(page)
        alerts = page.locator("#alerts")
        expect(alerts).to_contain_text("none")
        os.kill(server.fronts[0], signal.SIGKILL)
        expect(alerts.locator("li")).to_contain_text("died and were started again", timeout=20_000)
        expect(alerts).to_contain_text("1 alert not over")
        expect(alerts).to_contain_text("What to do:")
        press(alerts, "Acknowledge restarts:host")
        expect(alerts.locator("li")).to_contain_text("acknowledged by")
        told = server.ask("GET", "/api/alerts").json["alerts"]
        assert [each["state"] for each in told] == ["acknowledged"]


def test_drawing_predicts_by_mouse_and_by_keyboard(tmp_path: Path, browser: Browser) -> None:
    with Server(tmp_path / "state") as server, looking(browser, server.address) as page:
        is_ready(page)
        draw(page, SEVEN)
        expect(page.locator("#guess")).to_have_text("7")
        answer = page.locator("#chances").bounding_box()
        assert answer is not None
        assert answer["y"] + answer["height"] <= 860  # seen without scrolling
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


def change(server: Server, path: str, **wish: object) -> None:
    assert server.ask("POST", f"/api/plan/{path}", wish).status == 200


def of_two_rows(server: Server, **headers: str) -> int:
    return server.ask("POST", "/predict/digits", [SAMPLE_ROW, SAMPLE_ROW], headers).status


def opened(page: Page, knob: str) -> Locator:
    """What the table says of one knob, opened by the keyboard."""
    button = page.get_by_role("button", name=knob, exact=True)
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    about = page.locator("#knobs tbody").filter(has=button)
    expect(about.locator(".events li").last).to_contain_text("The defaults.")
    return about


def press(part: Locator | Page, button: str) -> None:
    part.get_by_role("button", name=button, exact=True).click()


def version(page: Page, number: int) -> Locator:
    exactly = re.compile(rf"Version {number}(?!\d)")
    return page.locator("#versions > li").filter(has=page.locator(".head b", has_text=exactly))


def test_a_change_on_the_page_is_obeyed_and_is_in_the_history(
    tmp_path: Path, browser: Browser
) -> None:
    state = tmp_path / "state"
    key = create_key(state, "me", "admin")
    with (
        Server(state, "--require-keys") as server,
        looking(browser, server.address, zone="Asia/Kolkata") as page,
    ):
        log_in(page, key)
        is_ready(page)
        assert of_two_rows(server, **{"x-api-key": key}) == 200
        knob = opened(page, "digits.max_rows")
        expect(knob).to_contain_text("How many rows one request may bring.")
        value = knob.get_by_label("New value in rows")
        value.fill("2000")
        press(knob, "Set")
        assert value.evaluate("field => field.validationMessage")  # and so it was not sent
        value.fill("1")
        knob.get_by_label("Reason").fill("one is enough")
        page.keyboard.press("Enter")
        expect(knob).to_contain_text("Plan 2: digits.max_rows 1024 → 1, untested")
        assert of_two_rows(server, **{"x-api-key": key}) == 400

        expect(page.locator("#plan-version")).to_have_text("Version 2")
        expect(page.locator("#plan-by")).to_have_text("by key me")
        expect(knob.get_by_role("cell").first).to_have_text("1 rows")
        expect(knob.locator(".events li").first).to_contain_text("one is enough")
        newest = page.locator("#versions > li").first
        for words in ("Version 2", "key me", "1024 → 1", "“one is enough”", "untested"):
            expect(newest).to_contain_text(words)
        when = newest.locator("time")
        exact = when.get_attribute("title") or ""
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", exact)
        local_minute = (int(exact[14:16]) + 30) % 60  # Kolkata is 5.5 h ahead
        expect(when).to_have_text(re.compile(rf"\d:{local_minute:02}$"))


def test_a_version_is_brought_back_on_the_page(tmp_path: Path, browser: Browser) -> None:
    with Server(tmp_path / "state") as server, looking(browser, server.address) as page:
        is_ready(page)
        knob = opened(page, "digits.enabled")
        knob.get_by_role("switch").click()
        press(knob, "Set")
        expect(knob).to_contain_text("true → false")
        assert server.ask("POST", "/predict/digits", SAMPLE_ROW).status == 503
        expect(page.locator("#versions > li").first).to_contain_text("in force")

        asked = page.locator("#bringing")
        press(page, "Bring back version 1")
        expect(asked).to_contain_text("digits.enabled false → true")
        press(asked, "Leave it")
        expect(asked).to_be_hidden()
        assert server.ask("GET", "/api/status").json["plan"] == 2
        press(page, "Bring back version 1")
        asked.get_by_label("Reason").fill("it was missed")
        press(asked, "Bring back")
        expect(version(page, 1)).to_contain_text("Plan 3: plan 1 brought back")
        expect(version(page, 3)).to_contain_text("Version 1 was brought back.")
        expect(version(page, 3)).to_contain_text("it was missed")
        expect(version(page, 3).get_by_role("button")).to_have_count(0)  # it is in force
        expect(knob.get_by_role("switch")).to_be_checked()
        predict(server, 1)


def test_what_others_change_appears_and_nothing_typed_is_lost(
    tmp_path: Path, browser: Browser
) -> None:
    state = tmp_path / "state"
    with Server(state) as server, looking(browser, server.address) as page:
        is_ready(page)
        knob = opened(page, "digits.deadline_ms")
        value = knob.get_by_label("New value in ms")
        value.fill("1234")
        why = knob.get_by_label("Reason")
        why.press_sequentially("slow")
        change(server, "set", knob="digits.deadline_ms", value=777, reason="by a colleague")
        expect(knob.get_by_role("cell").first).to_have_text("777 ms")
        expect(knob.locator(".events li").first).to_contain_text("by a colleague")
        expect(knob).to_contain_text("While you typed, the setting became 777 ms; it was 30000.")
        expect(knob.get_by_label("Envelope")).to_have_value("1..30000")
        change(server, "set", knob="digits.deadline_ms", envelope="1..9000")
        expect(knob.get_by_label("Envelope")).to_have_value("1..9000")  # nobody typed there
        paceline(state, "plan", "set", "digits.max_rows", "5", "--because", "the command line")
        expect(version(page, 4)).to_contain_text("the command line")
        expect(page.get_by_role("row", name="digits.max_rows")).to_contain_text("5 rows")
        expect(value).to_have_value("1234")
        expect(why).to_be_focused()
        page.keyboard.type(" callers")
        page.keyboard.press("Enter")
        expect(version(page, 5)).to_contain_text("777 → 1234")
        expect(version(page, 5)).to_contain_text("“slow callers”")
        expect(why).to_have_value("")

        change(server, "adjust", knob="digits.max_in_flight", value=8)  # makes no new version
        knob = opened(page, "digits.max_in_flight")
        expect(knob.get_by_role("cell").first).to_contain_text("8 requests")
        expect(knob.get_by_role("cell").first).to_contain_text("starts at 1024")
        expect(knob.locator(".events li").first).to_contain_text("adjusted 1024 → 8")


def test_a_pin_of_the_settings_is_shown_with_its_line_and_refuses(
    tmp_path: Path, browser: Browser
) -> None:
    file = tmp_path / "paceline.toml"
    file.write_text('[models.digits]\ngoal = ["p95_ms <= 30"]\npins.max_rows = 7\n')
    state = tmp_path / "state"
    with (
        Server(state, "--config", str(file)) as server,
        looking(browser, server.address) as page,
    ):
        is_ready(page)
        expect(page.locator("#goals")).to_contain_text("p95_ms <= 30")
        knob = opened(page, "digits.max_rows")
        expect(knob.get_by_role("cell").nth(1)).to_contain_text("paceline.toml:3")
        knob.get_by_label("New value in rows").fill("8")
        press(knob, "Set")
        wrong = knob.get_by_role("alert").filter(has_text="pinned")
        expect(wrong).to_contain_text("digits.max_rows is pinned at 7 by")
        expect(wrong).to_contain_text("Change or remove it there and reload")
        expect(wrong).to_contain_text("paceline.toml:3")
        assert server.ask("GET", "/api/status").json["plan"] == 2


def test_a_knob_is_pinned_and_let_go_on_the_page(tmp_path: Path, browser: Browser) -> None:
    with Server(tmp_path / "state") as server, looking(browser, server.address) as page:
        is_ready(page)
        knob = opened(page, "digits.priority")
        envelope = knob.get_by_role("cell").nth(1)
        expect(envelope).to_have_text("low, normal, high, critical")
        knob.get_by_label("New value").select_option("high")
        press(knob, "Pin at this value")
        expect(envelope).to_have_text("pinned by hand")
        knob.get_by_label("New value").select_option("critical")
        press(knob, "Move the pin")
        expect(knob.get_by_role("cell").first).to_have_text("critical")
        press(knob, "Unpin")
        expect(envelope).to_have_text("low, normal, high, critical")
        expect(knob.get_by_role("cell").first).to_have_text("normal")

        knob.get_by_label("Envelope").fill("low|urgent")
        press(knob, "Set")
        wrong = knob.get_by_role("alert").filter(has_text="one of low, normal, high, critical")
        expect(wrong).to_be_visible()
        knob.get_by_label("Envelope").fill("low | normal")
        press(knob, "Set")
        expect(envelope).to_have_text("low, normal")


def test_what_others_wrote_is_text_and_nothing_else(tmp_path: Path, browser: Browser) -> None:
    hostile = "<img src=x onerror='window.harmed = 1'><script>window.harmed = 1</script>`<b>`"
    with Server(tmp_path / "state") as server, looking(browser, server.address) as page:
        change(server, "set", knob="digits.max_rows", value=9, reason=hostile)
        page.reload()
        is_ready(page)
        knob = opened(page, "digits.max_rows")
        knob.get_by_label("New value in rows").fill("8")
        knob.get_by_label("Reason").fill(hostile)
        press(knob, "Set")
        expect(knob.get_by_role("status").filter(has_text="window.harmed")).to_be_visible()
        expect(knob.locator(".events")).to_contain_text(hostile)
        for number in (2, 3):
            expect(version(page, number)).to_contain_text(hostile)
        press(page, "Bring back version 2")
        page.get_by_label("Reason").last.fill(hostile)
        press(page.locator("#bringing"), "Bring back")
        expect(version(page, 2).get_by_role("status")).to_contain_text("window.harmed")
        expect(version(page, 4)).to_contain_text(hostile)
        assert page.locator("main :is(img, script)").count() == 0
        assert page.evaluate("window.harmed") is None


def test_earlier_versions_come_when_asked_for(tmp_path: Path, browser: Browser) -> None:
    with Server(tmp_path / "state") as server, looking(browser, server.address) as page:
        for rows in range(1, 23):
            change(server, "set", knob="digits.max_rows", value=rows)
        is_ready(page)
        page.reload()
        shown = page.locator("#versions > li")
        expect(shown).to_have_count(10)
        expect(shown.first).to_contain_text("Version 23")
        press(page, "Earlier versions")
        expect(shown).to_have_count(20)
        change(server, "set", knob="digits.max_rows", value=100)
        expect(shown).to_have_count(21)  # those asked for stay
        press(page, "Earlier versions")
        expect(shown).to_have_count(24)
        expect(shown.last).to_contain_text(f"and {len(KNOBS) - 3} more")
        expect(page.get_by_role("button", name="Earlier versions")).to_be_hidden()


def test_an_ended_login_asks_for_a_key_and_keeps_what_was_typed(
    tmp_path: Path, browser: Browser
) -> None:
    state = tmp_path / "state"
    first = create_key(state, "first", "admin")
    second = create_key(state, "second", "admin")
    client = create_key(state, "app", "client")
    with (
        Server(state, "--require-keys") as server,
        looking(browser, server.address) as page,
    ):
        log_in(page, first)
        is_ready(page)
        knob = opened(page, "digits.max_rows")
        knob.get_by_label("New value in rows").fill("6")
        paceline(state, "key", "revoke", "first")
        press(knob, "Set")
        expect(page.locator("#login")).to_be_visible()
        expect(page.locator("#login-wrong")).to_contain_text("login has ended")
        log_in(page, client)
        expect(page.locator("#login-wrong")).to_contain_text("role is client")
        log_in(page, second)
        is_ready(page)
        expect(knob.get_by_role("alert").filter(has_text="Nothing was changed")).to_be_visible()
        expect(page.locator("#plan-version")).to_have_text("Version 1")
        press(knob, "Set")
        expect(version(page, 2)).to_contain_text("by key second")
        expect(version(page, 2)).to_contain_text("1024 → 6")


def test_a_change_that_no_server_answers_is_not_said_to_be_done(
    tmp_path: Path, browser: Browser
) -> None:
    first = Server(tmp_path / "first")
    with first, looking(browser, first.address) as page:
        is_ready(page)
        change(first, "set", knob="digits.max_rows", value=3)
        expect(page.locator("#plan-version")).to_have_text("Version 2")
        knob = opened(page, "digits.deadline_ms")
        knob.get_by_label("New value in ms").fill("900")
        first.stop()
        press(knob, "Set")
        lost = knob.get_by_role("alert").filter(has_text="does not answer")
        expect(lost).to_contain_text("the history will tell")
        with Server(tmp_path / "second", "--port", str(first.port)) as second:
            is_ready(page)
            expect(page.locator("#plan-version")).to_have_text("Version 1")  # of another journal
            expect(page.locator("#versions > li")).to_have_count(1)
            press(knob, "Set")
            expect(version(page, 2)).to_contain_text("30000 → 900")
            assert second.ask("GET", "/api/status").json["plan"] == 2


def test_the_past_is_drawn_told_in_words_and_chosen_by_keyboard(
    tmp_path: Path, browser: Browser
) -> None:
    """Of a server that was started again: what the one before did is there, in the longer spans."""
    with Server(tmp_path / "state") as server, looking(browser, server.address) as page:
        is_ready(page)
        predict(server, 30)
        plots = page.locator("#plots svg")
        expect(plots).to_have_count(6)
        expect(plots.first).to_have_attribute(
            "aria-label", re.compile(r"Requests/s from 10 min ago until now: now [\d.]+, peak")
        )
        until_counted = re.compile(r"p99 from 10 min ago until now: now .* peak [\d.]+ ms")
        expect(plots.nth(2)).to_have_attribute("aria-label", until_counted)
        expect(plots.nth(2).locator("path")).to_have_attribute("d", re.compile("^M"))
    with Server(tmp_path / "state") as server, looking(browser, server.address) as page:
        is_ready(page)
        page.locator("input[value='10m']").focus()
        page.keyboard.press("ArrowRight")
        label = re.compile(r"p50 from an hour ago until now: .* peak [\d.]+ ms")
        expect(page.locator("#plots svg").nth(1)).to_have_attribute("aria-label", label)
        lines = server.ask("GET", str(page.locator("#past-csv").get_attribute("href")))
        assert b"paceline_requests_total,,20" in lines.body


@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_fits_and_asks_nobody_else(tmp_path: Path, browser: Browser, width: int) -> None:
    with Server(tmp_path / "state") as server, looking(browser, server.address, width) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.reload()
        is_ready(page)
        assert asked
        assert all(url.startswith((server.address, "data:")) for url in asked)
        expect(page.locator(".knob")).to_have_count(len(KNOBS))
        for opener in page.locator(".knob").all():
            opener.click()
        expect(page.locator(".events li")).to_have_count(len(KNOBS))
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
