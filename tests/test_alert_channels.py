"""Channels against receivers on loopback: HTTP, Slack's form, and a server that speaks SMTP."""

import asyncio
import email
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.policy import default
from typing import Any

import pytest

from paceline.clock import RealClock
from paceline.terms.alert import Alert, Notice
from paceline.terms.errors import BadSetting
from paceline.watch.alerts.channel import ChannelTo, Kind
from paceline.watch.alerts.channels import Channel, channel
from paceline.watch.alerts.messages import Message
from paceline.watch.alerts.postman import Outcome

ALERT = Alert(
    "errors:m0", "errors", "m0", "critical", "firing", 1e9, "requests for m0 fail",
    "12 % of 600", "The log has each error.", budget_left=0.3, exhausted_in_s=90.0,
)  # fmt: skip
MESSAGE = Message("ops", "127.0.0.1:8080", (Notice(7, 1e9, "fired", ALERT),))

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(handle: Handle) -> AsyncIterator[int]:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(closing, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def answering(status: int, heard: list[tuple[str, Any]]) -> Handle:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
        body = await reader.readexactly(int(fields["content-length"]))
        heard.append((head, json.loads(body)))
        writer.write(f"HTTP/1.1 {status} So\r\ncontent-length: 2\r\n\r\nok".encode())
        await writer.drain()

    return handle


async def sent_to(to: ChannelTo, environ: dict[str, str]) -> Outcome:
    made: Channel = channel(to, environ, RealClock().now)
    try:
        return await made.send(MESSAGE)
    finally:
        await made.close()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(in_time())


def test_a_webhook_gets_all_of_it_as_json_with_an_id_and_a_token() -> None:
    async def main() -> None:
        heard: list[tuple[str, Any]] = []
        async with listening(answering(201, heard)) as port:
            to = ChannelTo(
                "ops", "webhook", f"http://127.0.0.1:{port}/hook?a=1", token_env="T", private=True
            )
            assert (await sent_to(to, {"T": "s3cret"})).sent
        ((head, body),) = heard
        assert head.startswith("POST /hook?a=1 HTTP/1.1\r\n")
        assert "idempotency-key: 127.0.0.1:8080-ops-7-7\r\n" in head
        assert "authorization: Bearer s3cret\r\n" in head
        assert body["id"] == "127.0.0.1:8080-ops-7-7"
        (notice,) = body["notices"]
        assert notice | {"at_unix_s": 0} == {
            "id": 7, "at_unix_s": 0, "what": "fired", "alert": "errors:m0", "rule": "errors",
            "about": "m0", "severity": "critical", "state": "firing", "since_unix_s": 1e9,
            "ended_unix_s": None, "cause": "requests for m0 fail", "value": "12 % of 600",
            "budget_left": 0.3, "exhausted_in_s": 90.0, "what_to_do": "The log has each error.",
        }  # fmt: skip

    run(main)


def test_slacks_form_is_a_text_and_its_address_may_be_a_secret() -> None:
    async def main() -> None:
        heard: list[tuple[str, Any]] = []
        async with listening(answering(200, heard)) as port:
            to = ChannelTo("ops", "slack", url_env="HOOK", private=True)
            assert (await sent_to(to, {"HOOK": f"http://127.0.0.1:{port}/T0/B0/x"})).sent
        ((_, body),) = heard
        assert body.keys() == {"text"}
        assert "FIRING critical: requests for m0 fail" in body["text"]

    run(main)


@pytest.mark.parametrize(
    ("status", "for_good"), [(404, True), (301, True), (429, False), (500, False), (503, False)]
)
def test_what_a_webhook_refuses_is_refused_for_good_or_for_now(status: int, for_good: bool) -> None:
    async def main() -> None:
        async with listening(answering(status, [])) as port:
            to = ChannelTo("ops", "webhook", f"http://127.0.0.1:{port}/", private=True)
            outcome = await sent_to(to, {})
        assert outcome == Outcome(False, f"it answered with status {status}", for_good)

    run(main)


def test_what_is_not_there_or_hangs_up_is_tried_again() -> None:
    async def main() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")

        async with listening(hang_up) as port:
            to = ChannelTo("ops", "webhook", f"http://127.0.0.1:{port}/", private=True)
            outcome = await sent_to(to, {})
            assert (outcome.sent, outcome.for_good) == (False, False)
        assert "refused" in (await sent_to(to, {})).why

    run(main)


@pytest.mark.parametrize("kind", ["webhook", "smtp"])
@pytest.mark.parametrize("private", [False, True])
def test_a_name_that_leads_inside_is_not_called_unless_the_settings_say_so(
    kind: Kind, private: bool
) -> None:
    """127.1 is a name, of an address that the settings do not say. Who is called hangs up."""
    callers = []

    async def main() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            callers.append(writer)

        async with listening(hang_up) as port:
            to = ChannelTo(
                "ops", kind, f"https://127.1:{port}/", host="127.1", port=port, to=("x@y",),
                private=private,
            )  # fmt: skip
            outcome = await sent_to(to, {})
        assert not outcome.sent
        assert ("127.1 is 127.0.0.1 in a private network" in outcome.why) is not private

    run(main)
    assert bool(callers) is private


@pytest.mark.parametrize(
    "to",
    [
        ChannelTo("ops", "webhook", "ftp://host/"),
        ChannelTo("ops", "webhook", "https://user:pw@host/"),
        ChannelTo("ops", "webhook", "http://example.org/"),
    ],
)
def test_addresses_that_are_secrets_are_checked_and_not_shown(to: ChannelTo) -> None:
    async def main() -> None:
        with pytest.raises(BadSetting) as raised:
            channel(ChannelTo("ops", "webhook", url_env="HOOK"), {"HOOK": to.url}, RealClock().now)
        assert to.url not in str(raised.value)
        with pytest.raises(BadSetting):
            channel(ChannelTo("ops", "webhook", url_env="HOOK"), {}, RealClock().now)

    run(main)


# --- SMTP -----------------------------------------------------------------------------------------


class Mailbox:
    """A server that speaks as much SMTP as a sender needs."""

    def __init__(self, refuse: bytes = b"") -> None:
        self.mails: list[Any] = []
        self.to: list[str] = []
        self.logins = 0
        self._refuse = refuse

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(line: bytes) -> None:
            writer.write(line + b"\r\n")

        say(b"220 here")
        while line := await reader.readline():
            verb = line.split()[0].upper()
            if verb == b"EHLO":
                say(b"250-here\r\n250 AUTH PLAIN")
            elif verb == b"AUTH":
                self.logins += 1
                say(b"235 welcome")
            elif verb == b"RCPT" and self._refuse:
                say(self._refuse)
            elif verb == b"DATA":
                say(b"354 go on")
                text = (await reader.readuntil(b"\r\n.\r\n"))[:-3]
                self.mails.append(email.message_from_bytes(text, policy=default))
                say(b"250 taken")
            elif verb == b"QUIT":
                say(b"221 bye")
                return
            else:
                if verb == b"RCPT":
                    self.to.append(line.decode().strip())
                say(b"250 ok")


def mail_to(port: int) -> ChannelTo:
    return ChannelTo(
        "post", "smtp", host="127.0.0.1", port=port, encryption="none", user="paceline",
        password_env="PW", sender="paceline@example.org", to=("ann@example.org", "bob@example.org"),
        private=True,
    )  # fmt: skip


def test_a_mail_arrives_whole() -> None:
    async def main() -> None:
        box = Mailbox()
        async with listening(box.handle) as port:
            assert (await sent_to(mail_to(port), {"PW": "s3cret"})).sent
        (mail,) = box.mails
        assert box.logins == 1
        assert len(box.to) == 2
        assert mail["Subject"] == "[paceline] FIRING critical: requests for m0 fail"
        assert mail["Message-ID"] == "<127-0-0-1-8080-ops-7-7@paceline>"
        text = mail.get_content()
        for words in ("value: 12 % of 600", "budget left: ", "what to do: The log has each error."):
            assert words in text

    run(main)


@pytest.mark.parametrize(("says", "for_good"), [(b"550 nobody", True), (b"451 later", False)])
def test_a_mail_that_is_refused_says_why(says: bytes, for_good: bool) -> None:
    async def main() -> None:
        box = Mailbox(says)
        async with listening(box.handle) as port:
            outcome = await sent_to(mail_to(port), {"PW": "s3cret"})
        assert (outcome.sent, outcome.for_good) == (False, for_good)
        assert says[:3].decode() in outcome.why
        outcome = await sent_to(mail_to(port), {"PW": "s3cret"})
        assert (outcome.sent, outcome.for_good) == (False, False)

    run(main)


def test_a_mail_server_that_cannot_encrypt_gets_no_password() -> None:
    async def main() -> None:
        box = Mailbox()
        async with listening(box.handle) as port:
            to = ChannelTo(
                "post", "smtp", host="127.0.0.1", port=port, user="paceline", password_env="PW",
                sender="a@example.org", to=("b@example.org",),
            )  # fmt: skip
            outcome = await sent_to(to, {"PW": "s3cret"})
        assert not outcome.sent
        assert (box.logins, box.mails) == (0, [])

    run(main)
