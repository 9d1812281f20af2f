"""Which tests run, and what a skipped one must say. Fixtures live beside the tests they serve."""

import gc
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import laws
from capabilities import CAPABILITIES

HERE = Path(__file__).parent

OF_THE_SDKS = [
    "gateway_bench",
    "http_provider",
    "llm_fuzz",
    "llm_sdks",
    "llm_upstream",
    "simulated_shapes",
    "translate_answers",
    "translate_errors",
    "translate_requests",
    "translate_streams",
]
"""Files whose tests import the official SDKs: one process runs them all."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the long suites too")
    parser.addoption("--only-slow", action="store_true", help="run the long suites alone")


def pytest_configure(config: pytest.Config) -> None:
    laws.all_of_them = config.getoption("--slow") or config.getoption("--only-slow")
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        laws.use()  # not in a process that reads no tests
    gc.disable()  # to find out that modules and tests are no garbage took a quarter of reading them
    config.addinivalue_line(
        "markers", "needs(name, ...): what the machine must have, by its name in capabilities.py"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    only_slow = config.getoption("--only-slow")
    if config.getoption("--slow") and not only_slow:
        return
    left_out = [item for item in items if bool(item.get_closest_marker("slow")) != only_slow]
    items[:] = [item for item in items if bool(item.get_closest_marker("slow")) == only_slow]
    config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file is run by one process, and so are those of the SDKs together."""
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class Files(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            name = Path(file).stem.removeprefix("test_")
            return "sdks" if name in OF_THE_SDKS else file

    return Files(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """What is here now stays to the end: the garbage collector need not walk over it."""
    gc.freeze()
    gc.enable()


@cache
def lacks(capability: str) -> str | None:
    return CAPABILITIES[capability]()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for capability in marker.args:
            if reason := lacks(capability):
                pytest.skip(f"needs {capability}: {reason}")


def skips(config: pytest.Config) -> dict[str, str]:
    """Each skipped test with its reason."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter else []
    return {
        report.nodeid: str(report.longrepr[2]).removeprefix("Skipped: ")
        for report in reports
        if isinstance(report.longrepr, tuple)
    }


def not_allowed(skipped: dict[str, str]) -> list[str]:
    lines = (HERE / "skips_allowed.txt").read_text().splitlines()
    allowed = {line.partition("#")[0].strip() for line in lines}
    return [test for test in skipped if test.partition("[")[0] not in allowed]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    on_worker = hasattr(session.config, "workerinput")
    if os.environ.get("CI") == "true" and not on_worker and not_allowed(skips(session.config)):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    skipped = skips(config)
    for test, reason in skipped.items():
        terminalreporter.write_line(f"SKIPPED {test}: {reason}")
    if os.environ.get("CI") == "true" and (missing := not_allowed(skipped)):
        terminalreporter.write_line(
            f"CI fails: {len(missing)} skipped but not listed in tests/skips_allowed.txt: "
            + ", ".join(missing),
            red=True,
        )
