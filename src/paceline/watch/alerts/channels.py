"""The ways to tell somebody: a webhook, Slack's form of it, a mail, the log. They send, and decide
nothing.

Addresses go through the same guard as those of providers: a name that resolves to an inner address
is not called unless the settings say so. Secrets stand in the environment, under the names that the
settings give; an address may itself be one, as Slack's are. Made in `app.py`.
"""

import asyncio
import smtplib
import socket
import ssl
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from urllib.parse import urlsplit

from paceline.net.client import Headers
from paceline.net.dialing import Dialer, trouble
from paceline.net.guard import refusal
from paceline.net.pool import Lost, Pool
from paceline.net.requests import request_head
from paceline.net.trust import trust
from paceline.observe import log
from paceline.terms.errors import BadSetting, PacelineError, Unreachable
from paceline.terms.limits import ALERT_SEND_S
from paceline.watch.alerts import messages
from paceline.watch.alerts.channel import ChannelTo, check_url
from paceline.watch.alerts.messages import Message
from paceline.watch.alerts.postman import SENT, Outcome

logger = log.get(__name__)

TRY_AGAIN = frozenset({408, 425, 429})
"""Of the statuses that blame the caller, those that pass."""


class LogChannel:
    """Each notice as a line of the log."""

    async def send(self, message: Message) -> Outcome:
        for notice in message.notices:
            alert = notice.alert
            say = logger.error if alert.open and alert.severity == "critical" else logger.warning
            say(
                f"alert {messages.word(notice).lower()}",
                alert=alert.id,
                severity=alert.severity,
                cause=alert.cause,
                value=alert.value,
                budget=", ".join(messages.budget(alert.budget_left, alert.exhausted_in_s)),
                remedy=alert.remedy if alert.open else "",
            )
        return SENT

    async def close(self) -> None:
        pass


class WebhookChannel:
    """Posts JSON. Belongs to one event loop."""

    def __init__(
        self,
        to: ChannelTo,
        url: str,
        token: str,
        now: Callable[[], float],
        form: Callable[[Message], bytes],
    ) -> None:
        split = urlsplit(url)
        tls = split.scheme == "https"
        self._now = now
        self._form = form
        self._path = (split.path or "/") + (f"?{split.query}" if split.query else "")
        self._host = split.netloc.rpartition("@")[2].lower()
        self._token = token
        port = split.port or (443 if tls else 80)
        dialer = Dialer(
            split.hostname or "", port, now, tls=tls, ca_file=to.ca_file, private=to.private
        )
        self._pool = Pool(dialer, now, most=1)

    async def send(self, message: Message) -> Outcome:
        body = self._form(message)
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"idempotency-key", message.id.encode()),
            (b"user-agent", b"paceline"),
        ]
        if self._token:
            headers.append((b"authorization", b"Bearer " + self._token.encode()))
        try:
            head = request_head("POST", self._path, self._host, headers, len(body))
        except PacelineError as error:
            return Outcome(sent=False, why=error.cause, for_good=True)
        heard = _Heard()
        self._pool.ask(head, body, heard, self._now() + ALERT_SEND_S)
        return await heard.outcome

    async def close(self) -> None:
        await self._pool.close()


class _Heard:
    """Of an answer, its status alone."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._status = 0

    def head(self, status: int, headers: Headers) -> None:
        self._status = status

    def body(self, piece: bytes) -> None:
        pass

    def end(self) -> None:
        status = self._status
        if 200 <= status < 300:
            self._tell(SENT)
        else:
            passes = status >= 500 or status in TRY_AGAIN
            self._tell(Outcome(False, f"it answered with status {status}", for_good=not passes))

    def lost(self, why: Lost, detail: str) -> None:
        self._tell(Outcome(sent=False, why=detail or why))

    def _tell(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class MailChannel:
    """Sends mails, in a thread of its own: one at a time."""

    def __init__(self, to: ChannelTo, password: str) -> None:
        self._to = to
        self._password = password
        self._tls = None if to.encryption == "none" else trust_for_mail(to.ca_file)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"mail-{to.name}")

    async def send(self, message: Message) -> Outcome:
        mail = messages.as_mail(message, self._to.sender, self._to.to)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._send, mail)

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _send(self, mail: EmailMessage) -> Outcome:
        try:
            self._deliver(mail)
        except smtplib.SMTPRecipientsRefused as error:
            codes = {code for code, _ in error.recipients.values()}
            why = f"no recipient was accepted: {sorted(codes)}"
            return Outcome(sent=False, why=why, for_good=min(codes) >= 500)
        except smtplib.SMTPResponseException as error:
            said = error.smtp_error
            reason = said.decode(errors="replace") if isinstance(said, bytes) else said
            why = f"it answered {error.smtp_code} {reason}"
            return Outcome(sent=False, why=why[:200], for_good=error.smtp_code >= 500)
        except Unreachable as error:
            return Outcome(sent=False, why=error.cause)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            return Outcome(sent=False, why=trouble(error))
        return SENT

    def _deliver(self, mail: EmailMessage) -> None:
        to = self._to
        smtp = _Guarded(to.host, to.private, self._tls if to.encryption == "tls" else None)
        with smtp:
            smtp.connect(to.host, to.port)
            if to.encryption == "starttls":
                assert self._tls is not None
                smtp.starttls(context=self._tls)
            if to.user:
                smtp.login(to.user, self._password)
            smtp.send_message(mail)


class _Guarded(smtplib.SMTP):
    """Connects to an address that the guard has seen, and to no other."""

    def __init__(self, host: str, private: bool, tls: ssl.SSLContext | None) -> None:
        super().__init__(timeout=ALERT_SEND_S, local_hostname="paceline")
        self._host = host  # what a certificate must say
        self._private = private
        self._tls = tls

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        failed = [f"{host} has no address"]
        for *_, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            address = str(where[0])
            refused = refusal(host, address, private=self._private)
            if refused is not None:
                failed.append(refused)
                continue
            try:
                plain = socket.create_connection((address, port), timeout)
            except OSError as error:
                failed.append(f"{address}: {trouble(error)}")
                continue
            if self._tls is None:
                return plain
            return self._tls.wrap_socket(plain, server_hostname=host)
        raise Unreachable(
            "; ".join(failed[1:] or failed), value=host, remedy="See whether its name is right."
        )


def trust_for_mail(ca_file: str) -> ssl.SSLContext:
    """As for HTTP, but that nothing is said of its version."""
    context = trust(ca_file)
    context.set_alpn_protocols([])
    return context


Channel = LogChannel | WebhookChannel | MailChannel


def channel(to: ChannelTo, environ: Mapping[str, str], now: Callable[[], float]) -> Channel:
    """Made within a running loop. A BadSetting where a secret is missing or cannot be one."""
    match to.kind:
        case "log":
            return LogChannel()
        case "smtp":
            return MailChannel(to, _secret(to.password_env, environ, to) if to.user else "")
    url = _secret(to.url_env, environ, to) if to.url_env else to.url
    if to.url_env:
        check_url(to.name, url, private=to.private, shown=to.url_env)
    token = _secret(to.token_env, environ, to) if to.token_env else ""
    form = messages.as_slack if to.kind == "slack" else messages.as_json
    return WebhookChannel(to, url, token, now, form)


def _secret(variable: str, environ: Mapping[str, str], to: ChannelTo) -> str:
    value = environ.get(variable, "").strip()
    if not value or not (value.isascii() and value.isprintable()):
        raise BadSetting(
            f"the channel {to.name} needs what is not in the environment",
            value=variable,
            remedy=f"Set {variable}, or name another variable.",
        )
    return value
