"""`paceline journal`: look at the journal, check it, copy and move it, make it smaller.

What only reads takes no lock, asks no server and changes nothing. `compact` goes through a server
where one runs; `import` refuses to, for it replaces the file.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec
import typer

from paceline.cli.config import CONFIG_HELP, STATE_HELP
from paceline.cli.reach import ask, place
from paceline.cli.showing import help_without_command
from paceline.terms.errors import JournalDamaged, Misuse
from paceline.terms.limits import JOURNAL_PAGE_ENTRIES

if TYPE_CHECKING:
    from paceline.journal.damage import Progress, Report
    from paceline.journal.entries import Entry

app = typer.Typer(
    help="Look at the journal, check it, copy and move it, make it smaller.",
    rich_markup_mode=None,
    invoke_without_command=True,
    callback=help_without_command,
)

State = Annotated[str | None, typer.Option(help=STATE_HELP)]
Config = Annotated[Path | None, typer.Option(help=CONFIG_HELP)]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]

STANDARD = Path("-")


@app.command()
def tail(
    number: Annotated[
        int,
        typer.Option("-n", help="How many entries.", min=1, max=JOURNAL_PAGE_ENTRIES),
    ] = 20,
    about: Annotated[
        str, typer.Option(help="Only those about this knob, or about `plan`.", show_default=False)
    ] = "",
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show the last entries, the newest last: when, which number, who, what.

    Example: paceline journal tail --about digits.max_rows
    """
    from itertools import islice

    from paceline.journal.entries import to_entry
    from paceline.journal.sqlite import read_file

    newest = islice(read_file(_journal(state, config), about=about, newest=True), number)
    entries = [to_entry(record) for record in newest][::-1]
    if as_json:
        print(msgspec.json.encode([_shown(entry) for entry in entries]).decode())
        return
    for entry in entries:
        print(_line(entry))
    if not entries:
        print(f"No entry is about {about}." if about else "The journal is empty.")


@app.command()
def check(state: State = None, config: Config = None, as_json: Json = False) -> None:
    """Read the whole journal, and say whether all is there and what can be saved.

    Example: paceline journal check
    """
    from paceline.journal.damage import inspect

    path = _journal(state, config)
    with _progress("Checked") as progress:
        report = inspect(path, progress)
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        print("\n".join(_report(report)), flush=True)
    if not report.sound:
        raise JournalDamaged(
            "the journal is damaged",
            value=str(path),
            remedy=f"`paceline journal export FILE --salvage` saves what can be saved; then move "
            f"{path.name}* away and import FILE."
            if report.saved
            else f"Bring back a copy, or move {path.name}* away and begin with the defaults.",
        )


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The file to write; - is standard output.")],
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Of a damaged journal, what can be saved.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write all entries as lines of JSON, which `import` reads again.

    Example: paceline journal export journal.jsonl
    """
    from paceline.journal.damage import count, in_words
    from paceline.journal.transfer import export_what_is_left, export_whole, write_file

    path = _journal(state, config)

    def put(lines: Iterable[bytes]) -> None:
        if file == STANDARD:
            sys.stdout.buffer.writelines(lines)
            sys.stdout.buffer.flush()
        else:
            write_file(lines, file, force=force)

    with _progress("Exported") as progress:
        if salvage:
            saved = export_what_is_left(path, put, progress)
            told = list(_under("saved", in_words(saved)))
            done: msgspec.Struct = saved
        else:
            moved = export_whole(path, put, progress)
            told = [f"written   {count(moved.entries)}, up to plan version {moved.plan_version}"]
            done = moved
    out = sys.stderr if file == STANDARD else sys.stdout
    if as_json:
        told = [msgspec.json.encode(done).decode()]
    print("\n".join(told), file=out)


@app.command("import")
def import_journal(
    file: Annotated[Path, typer.Argument(help="What `export` wrote; - is standard input.")],
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Make the journal of a state directory that has none yet. No server may run on it.

    Example: paceline journal import journal.jsonl --state ./elsewhere
    """
    from paceline.journal.damage import count
    from paceline.journal.transfer import import_lines
    from paceline.processes.state_dir import StateDir

    directory = place(state, config).state
    with _opened(file) as stream:
        held = StateDir.hold(directory)
        try:
            with _progress("Imported") as progress:
                moved = import_lines(stream, directory, progress)
        finally:
            held.release()
    if as_json:
        print(msgspec.json.encode(moved).decode())
    else:
        print(f"read      {count(moved.entries)}, up to plan version {moved.plan_version}")


@app.command()
def compact(
    state: State = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Summarize old adjustments: of one knob's of one day, one entry stays. Plans stay for ever.

    Example: paceline journal compact
    """
    from paceline.journal.damage import count, pages_bytes
    from paceline.journal.sqlite import FILE
    from paceline.web.plan_api import CompactView

    there = place(state, config)
    path = there.state / FILE
    before_bytes = pages_bytes(path)
    told = ask(there, "POST", "/api/journal/compact")
    answer = msgspec.json.decode(told.body, type=CompactView)
    if answer.going_on and not as_json:
        print("It takes longer and goes on in the server; `paceline journal tail` will tell.")
        return
    removed = answer.removed
    after_bytes = pages_bytes(path)
    if as_json:
        what = {
            "removed": removed,
            "going_on": answer.going_on,
            "before_bytes": before_bytes,
            "after_bytes": after_bytes,
        }
        print(msgspec.json.encode(what).decode())
        return
    print(
        f"{count(removed)} fewer; the file had {_size(before_bytes)} and has {_size(after_bytes)}."
        if removed
        else f"There is nothing to summarize. The file has {_size(after_bytes)}."
    )


def _journal(state: str | None, config: Path | None) -> Path:
    from paceline.journal.sqlite import FILE

    return place(state, config).state / FILE


def _line(entry: "Entry") -> str:
    from paceline.changes.wording import text, words
    from paceline.terms.amounts import moment

    return f"{moment(entry.at)}  {entry.seq}  {text(entry.who)}  {words(entry)}"


def _shown(entry: "Entry") -> dict[str, object]:
    from paceline.changes.wording import words
    from paceline.journal.entries import kind_of

    return {
        "seq": entry.seq,
        "at_unix_s": entry.at,
        "who": entry.who,
        "kind": kind_of(entry.body),
        "text": words(entry),
        "body": entry.body,
    }


def _report(report: "Report") -> Iterator[str]:
    from paceline.journal.damage import in_words
    from paceline.terms.amounts import moment

    yield f"journal   {report.path}, {_size(report.size_bytes)}"
    if report.last_at_unix_s is None:
        yield "entries   none" if report.sound else "entries   none can be read"
    else:
        last = f"the last is {report.last_seq} of {moment(report.last_at_unix_s)}"
        yield f"entries   {report.entries}{'' if report.sound else ' can be read'}, {last}"
    if report.plan_version is None:
        yield "plan      no server would start with this journal"
    else:
        yield f"plan      a server starts with version {report.plan_version}"
    if report.sound:
        yield "sound     all is there: check sums, numbers, plan hashes and snapshots agree"
        return
    yield from _under("damage", report.findings)
    if report.more_findings:
        yield f"          and {report.more_findings} more"
    yield from _under("to save", ["nothing"] if report.saved is None else in_words(report.saved))


def _under(heading: str, lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield f"{heading:9} {line}"
        heading = ""


def _size(size_bytes: int) -> str:
    kib = size_bytes / 1024
    return f"{kib:.0f} KiB" if kib < 1024 else f"{kib / 1024:.1f} MiB"


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if file == STANDARD:
        yield sys.stdin.buffer
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise Misuse(
            f"the file cannot be read: {error.strerror}",
            value=str(file),
            remedy="Name a file that `paceline journal export` has written, or - for standard "
            "input.",
        ) from error
    with stream:
        yield stream


@contextmanager
def _progress(done: str) -> Iterator["Progress"]:
    """A line on the terminal that says how many entries are done; nothing where none looks on."""
    from paceline.journal.damage import no_progress

    if not sys.stderr.isatty():
        yield no_progress
        return

    def show(entries: int) -> None:
        print(f"\r\x1b[2K{done} {entries} entries", end="", file=sys.stderr, flush=True)

    show(0)
    try:
        yield show
    finally:
        print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
