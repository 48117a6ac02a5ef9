"""A server that is deployed already: whether it may be loaded, and how one comes in.

Everything is asked before the first agent dials. The first question is asked without a token, so that none is shown to a
server that may be the wrong one; nothing else is sent until it has agreed.
"""

import asyncio
import base64
import http.client
import json
import secrets
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from loadtests.consent import ASK_SECONDS, CONSENT_PATH, Consent, NoConsentError, opener, read_consent
from loadtests.database import AWAY
from loadtests.fingerprint import Deployed
from loadtests.scrape import scrape, version
from loadtests.stage import StageError
from loadtests.target_limits import check_seen, check_storage
from loadtests.tokens import ORG as ORG_VARIABLE
from loadtests.tokens import TokenError, signer, user_token
from server.protocol.messages import LIVE_SUBPROTOCOL
from simulator.errors import PlanError
from simulator.scenario import Scenario
from simulator.tokens import KEY_VARIABLE, KID_VARIABLE, SECRET_VARIABLE, agent_token

ORG_PREFIX = "seatrial-run-"
"""The organisation of each run against a target begins so, and goes on with its time."""
REPLICA_SECONDS = 5.0
"""How far the database of `--database-url` may be behind the server's own."""
_PROBE = "seatrial-probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server that is not ours, and the run's way in."""

    http: str
    metrics: str
    """Base URL of its `/metrics` and `/readyz`."""
    database_url: str
    org: str
    credentials: Mapping[str, str]
    """The variables with which the fleet and the users sign their tokens."""
    version: str | None = None
    """Of the server, once it was reached; None: it does not tell."""

    @property
    def ws(self) -> str:
        """The base URL of its sockets."""
        return f"ws{self.http.removeprefix('http')}"

    @property
    def deployed(self) -> Deployed:
        """What a result says of it."""
        return Deployed(url=self.http, org=self.org, version=self.version)


def target_of(url: str, *, database_url: str, metrics_url: str | None, environ: Mapping[str, str]) -> Target:
    """What the options of a run name, checked as far as that goes without asking anybody.

    Args:
        url: of the server.
        database_url: its database.
        metrics_url: where its `/metrics` is, if not there.
        environ: holds the secret, or the name of the file of the signing key and its kid.

    Raises:
        PlanError: one of them cannot be used.
    """
    names = (KEY_VARIABLE, KID_VARIABLE) if environ.get(KEY_VARIABLE) else (SECRET_VARIABLE,)
    credentials = {name: environ.get(name, "") for name in names}
    try:
        signer(credentials)
    except TokenError as error:
        raise PlanError(
            "target", url, f"its key, by --signing-key with --kid, or by {SECRET_VARIABLE} in the environment: {error}"
        ) from None
    return Target(
        http=_base_url("target", url), metrics=_base_url("metrics-url", metrics_url or url), database_url=database_url,
        org=f"{ORG_PREFIX}{time.strftime('%Y%m%dt%H%M%Sz', time.gmtime())}-{secrets.token_hex(3)}",
        credentials=credentials,
    )  # fmt: skip


async def reach(target: Target, scenario: Scenario, *, owned: bool) -> Target:
    """Make sure that the run can be done there, in the order in which it does no harm.

    Returns:
        The target with the version that it told.

    Args:
        target: not asked anything so far.
        scenario: what shall be run.
        owned: whether the user answers for the load, whatever the server says.

    Raises:
        NoConsentError: the server does not accept test load. It was asked for nothing else.
        ScenarioError: the scenario does not fit the target.
        StageError: the server or its database cannot be used.
    """
    consent = await _consent(target)
    if not consent.accepted and not owned:
        raise NoConsentError(
            f"--target {target.http}: does not say that it accepts test load: set SEATRIAL_ACCEPT_TEST_LOAD=true there if it"
            " may be loaded, or give --i-own-this to answer for it yourself; nothing was sent"
        )
    connection = await _connect(target.database_url)
    try:
        strategy = await _strategy(connection)
        check_storage(scenario, strategy, consent.storage)
        counters = await scrape(f"{target.metrics}/metrics")
        check_seen(
            scenario, target.metrics, seen=counters is not None and ("seatrial_agents_connected", "") in counters
        )
        ticket = await _ticket(target)
        await _check_agent(target)
        await _same_database(connection, target)
    except AWAY as error:
        raise _database_error(error) from None
    finally:
        connection.terminate()
    if scenario.ui.subscribers or scenario.ui.slow or scenario.ui.reconnecting or scenario.actions.operators:
        await asyncio.to_thread(_open_live, target, ticket)
    return replace(target, version=version(counters or {}) or await _documented_version(target))


# ---------------------------------------------------------------- the server


class _Answer(NamedTuple):
    status: int
    body: bytes

    @property
    def told(self) -> dict[str, Any]:
        """Its JSON object; empty if it has none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


async def _ask(target: Target, method: str, path: str, token: str | None = None) -> _Answer:
    """One request; its answer, whatever the status.

    Raises:
        StageError: there was none.
    """
    headers = {"Origin": target.http} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(target.http + path, method=method, headers=headers)  # noqa: S310 - checked before

    def fetch() -> _Answer:
        try:
            with opener().open(request, timeout=ASK_SECONDS) as response:
                return _Answer(response.status, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return _Answer(error.code, error.read())

    try:
        return await asyncio.to_thread(fetch)
    except (urllib.error.URLError, OSError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        hint = ": SSL_CERT_FILE names the file of a CA of your own" if isinstance(reason, ssl.SSLError) else ""
        raise StageError(f"--target {target.http}: does not answer: {reason}{hint}") from None


async def _consent(target: Target) -> Consent:
    answer = await _ask(target, "GET", CONSENT_PATH)
    return read_consent(answer.status, answer.body)


async def _documented_version(target: Target) -> str | None:
    """What the description of the API says, for a server whose `/metrics` are not shown; None: it is not shown either."""
    info = (await _ask(target, "GET", "/openapi.json")).told.get("info")
    told = info.get("version") if isinstance(info, dict) else None
    return told if isinstance(told, str) else None


def _user_token(target: Target) -> str:
    return user_token(dict(target.credentials) | {ORG_VARIABLE: target.org}, _PROBE)


def _refused(target: Target, whose: str, answer: _Answer) -> StageError:
    told = answer.told
    why = ": ".join(str(told[key]) for key in ("title", "detail") if told.get(key))
    key = next(iter(target.credentials))
    return StageError(
        f"--target {target.http}: refuses {whose} signed with {key}: HTTP {answer.status} {why}".strip()
        + ": expected the key of that server, good for agents and users"
    )


async def _ticket(target: Target) -> str:
    answer = await _ask(target, "POST", "/api/live-tickets", _user_token(target))
    ticket = answer.told.get("ticket")
    if answer.status != 201 or not isinstance(ticket, str):
        raise _refused(target, "a user's token", answer)
    return ticket


async def _check_agent(target: Target) -> None:
    """Renewing a token needs a good one, and leaves nothing behind."""
    secret, kid = signer(target.credentials)
    token = agent_token(secret, target.org, _PROBE, kid=kid)
    answer = await _ask(target, "POST", "/api/agents/renew", token)
    if answer.status != 201:
        raise _refused(target, "an agent's token", answer)


def _open_live(target: Target, ticket: str) -> None:
    """A browser's socket opens.

    Raises:
        StageError: it does not.
    """
    parts = urlsplit(target.http)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=ASK_SECONDS)
    headers = {
        "Origin": target.http, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(secrets.token_bytes(16)).decode(), "Sec-WebSocket-Protocol": LIVE_SUBPROTOCOL,
    }  # fmt: skip
    try:
        connection.request("GET", f"/ws/live?ticket={quote(ticket, safe='')}", headers=headers)
        status = connection.getresponse().status
    except (http.client.HTTPException, OSError) as error:
        raise StageError(f"--target {target.http}: opens no live socket: {type(error).__name__}: {error}") from None
    finally:
        connection.close()
    if status != HTTPStatus.SWITCHING_PROTOCOLS:
        hint = (
            f": SEATRIAL_PUBLIC_URL or SEATRIAL_ALLOWED_ORIGINS there must name {target.http}" if status == 403 else ""
        )
        raise StageError(f"--target {target.http}: opens no live socket: HTTP {status}{hint}")


# ---------------------------------------------------------------- its database


async def _connect(dsn: str) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(dsn, timeout=ASK_SECONDS, command_timeout=ASK_SECONDS)
    except (*AWAY, ValueError) as error:
        raise _database_error(error) from None


def _database_error(error: BaseException) -> StageError:
    return StageError(f"--database-url: {type(error).__name__}: {error}: expected the database of the target")


async def _strategy(connection: asyncpg.Connection) -> str:
    if await connection.fetchval("SELECT to_regclass('public.storage_strategy')") is None:
        raise StageError("--database-url: holds no tables of Seatrial: expected the database of the target")
    return str(await connection.fetchval("SELECT name FROM storage_strategy"))


async def _same_database(connection: asyncpg.Connection, target: Target) -> None:
    """The ticket that the server has just given out is in this database, or it is another server's."""
    deadline = time.monotonic() + REPLICA_SECONDS
    while not await connection.fetchval("SELECT EXISTS (SELECT FROM live_ticket WHERE org = $1)", target.org):
        if time.monotonic() > deadline:
            raise StageError(
                f"--database-url: is not the database of {target.http}: a ticket that it gave out is not there after"
                f" {REPLICA_SECONDS:g} s; every row would look lost"
            )
        await asyncio.sleep(0.1)


def _base_url(field: str, url: str) -> str:
    expected = "http[s]://host[:port] without a path"
    parts = urlsplit(url)
    try:
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if parts.username is not None or parts.password is not None:
        raise PlanError(field, f"{parts.scheme}://...@{parts.hostname}", f"{expected}, and without a name or password")
    if not good or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise PlanError(field, url, expected)
    return urlunsplit((parts.scheme, parts.netloc, "", "", ""))
