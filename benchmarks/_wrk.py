"""One closed-loop load by the program wrk: so many callers, each asking when it was answered.

Its p99 says little under overload, because a slow answer delays the next question; latencies under
a given rate are `_open_loop`'s. Called by `serving` and `goodput`.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.peers.environment import Unavailable
from benchmarks.peers.started import Asked, Started

TIMEOUT_S = 30
SPARE_S = 60.0
FOUND = "found "

LUA = """
local path, headers, files = %s, {%s}, {%s}
local requests, number = {}, 0
function init(args)
  for i, name in ipairs(files) do
    local file = io.open(name, "rb")
    requests[i] = wrk.format("POST", path, headers, file:read("*a"))
    file:close()
  end
end
function request()
  number = number %% #requests + 1
  return requests[number]
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'found {"requests":%%d,"seconds":%%.6f,"unwanted":%%d,"broken":%%d,"timeouts":%%d,' ..
    '"p50_ms":%%.4f,"p90_ms":%%.4f,"p99_ms":%%.4f}\\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write, errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3))
end
"""


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By wrk. `requests` are all answers, `unwanted` those with a status of 400 and above."""

    requests: int
    seconds: float
    unwanted: int
    broken: int
    timeouts: int
    p50_ms: float
    p90_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return (self.requests - self.unwanted) / self.seconds

    @property
    def errors(self) -> int:
        return self.unwanted + self.broken + self.timeouts


def script(path: str, headers: Mapping[str, str], files: Sequence[Path]) -> str:
    """Lua that asks with the bodies in turn."""
    named = ", ".join(f"[{_quoted(name)}] = {_quoted(value)}" for name, value in headers.items())
    return LUA % (_quoted(path), named, ", ".join(_quoted(str(file)) for file in files))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def parsed(output: str) -> Seen:
    for line in output.splitlines():
        if line.startswith(FOUND):
            return msgspec.json.decode(line.removeprefix(FOUND), type=Seen)
    raise Unavailable(f"wrk said nothing of what it found: {output[-300:]}")


def load(up: Started, asked: Sequence[Asked], callers: int, seconds: float, folder: Path) -> Seen:
    """The path and the headers are those of the first; a binary body has its length in a header,
    which is the same for all rows of a model."""
    files = []
    for number, each in enumerate(asked):
        if (each.path, each.headers) != (asked[0].path, asked[0].headers):
            raise ValueError("the requests differ in more than their bodies")
        files.append(folder / f"body-{number}")
        files[-1].write_bytes(each.body)
    lua = folder / "ask.lua"
    lua.write_text(script(asked[0].path, asked[0].headers, files))
    command = ["wrk", "-t1", f"-c{callers}", f"-d{max(1, round(seconds))}s", "-s", str(lua)]
    try:
        done = subprocess.run(
            [*command, f"--timeout={TIMEOUT_S}s", up.url],
            capture_output=True,
            text=True,
            timeout=seconds + TIMEOUT_S + SPARE_S,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable("wrk did not end in time") from error
    return parsed(done.stdout + done.stderr)
