"""The REST API as a simulated user asks it. Blocking calls, so that it runs in a greenlet as well as in a thread."""

import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import Struct

from loadtests.recorded import Measurements
from loadtests.tenants import ALONE, Tenant
from loadtests.tokens import LIFE_SECONDS, VIEWER, user_token
from server.protocol.messages import ContainerStatus, HostStatus

HTTP_SECONDS = 30.0
"""Longest wait for an answer to begin, and for each next part of it."""

T = TypeVar("T")


class Ticket(Struct):
    """Answer to `POST /api/live-tickets`."""

    ticket: str
    expires_in_seconds: int


class HostPage(Struct):
    """Answer to `GET /api/hosts`."""

    hosts: tuple[HostStatus, ...]
    next: str | None = None


class ContainerPage(Struct):
    """Answer to `GET /api/containers` and `GET /api/hosts/{id}/containers`."""

    containers: tuple[ContainerStatus, ...]
    next: str | None = None


class Action(Struct):
    """Of the answer to `POST /api/containers/{id}/actions` and `GET /api/actions/{id}`: what an operator looks at."""

    action_id: str
    state: str


class ActionPage(Struct):
    """Answer to `GET /api/actions`."""

    actions: tuple[Action, ...]


class Problem(Struct):
    """What the server says where it refuses: RFC 9457."""

    title: str = ""
    detail: str = ""


class Answer(NamedTuple):
    """An HTTP answer; status 0: there was none."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def problem(self) -> Problem:
        """Its problem details; empty ones if it has none that can be read."""
        try:
            return msgspec.json.decode(self.body, type=Problem)
        except msgspec.DecodeError:
            return Problem()


class Client(Protocol):
    """Locust's HTTP session: `requests`, counted."""

    def request(self, method: str, url: str, **options: Any) -> Any:
        """A context manager around the response."""


class Identity:
    """Somebody with a token, renewed before it expires."""

    def __init__(self, subject: str, role: str = VIEWER, tenant: Tenant = ALONE) -> None:
        self.subject = subject
        self.role = role
        self.tenant = tenant
        self._token = ""
        self._renew_at = 0.0

    def header(self) -> dict[str, str]:
        """The `Authorization` of a request."""
        if time.monotonic() >= self._renew_at:
            self._token = user_token(os.environ, self.subject, self.role, self.tenant.org)
            self._renew_at = time.monotonic() + LIFE_SECONDS / 2
        return {"Authorization": f"Bearer {self._token}"}


class Api:
    """Requests of one user, each recorded with what is wrong with its answer."""

    def __init__(self, client: Client, measurements: Measurements, identity: Identity) -> None:
        self._client = client
        self._measurements = measurements
        self.identity = identity

    def send(
        self,
        method: str,
        path: str,
        *,
        expect: tuple[int, ...],
        name: str | None = None,
        identity: Identity | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Answer:
        """Send a request and read the whole answer.

        Args:
            method: GET, POST, ...
            path: with its ids.
            expect: statuses that are no failure.
            name: how the request is counted; by default its path.
            identity: somebody else in whose name it is sent.
            headers: beside `Authorization`.
            options: of `requests`: `params`, `json`.
        """
        with self._client.request(
            method,
            path,
            name=name or path,
            headers=(identity or self.identity).header() | dict(headers or {}),
            timeout=HTTP_SECONDS,
            catch_response=True,
            **options,
        ) as response:
            answer = Answer(response.status_code, response.headers or {}, response.content or b"")
            if answer.status in expect:
                response.success()
                self._measurements.answered()
            else:
                problem = answer.problem()
                wanted = " or ".join(map(str, expect))
                told = f"HTTP {answer.status} {problem.title}: expected {wanted}"
                response.failure(told)
                self._measurements.failure("http", f"{method} {path}: {told}; {problem.detail}", medium=method)
        return answer

    def get(self, path: str, answer: type[T], name: str | None = None, **options: Any) -> T | None:
        """The answer to a GET; None: it failed, which is recorded."""
        return self.read(self.send("GET", path, expect=(200,), name=name, **options), answer, name or path)

    def hosts(self, limit: int, *, online: bool | None = None) -> list[HostStatus]:
        """Hosts that have something to look at, of our own organisation: another's among them is a leak, and recorded."""
        params: dict[str, object] = {"limit": limit} | ({} if online is None else {"online": str(online).lower()})
        page = self.get("/api/hosts", HostPage, params=params)
        listed = [host for host in page.hosts if host.containers] if page else []
        tenant = self.identity.tenant
        for host in listed:
            if not tenant.owns(host.id):
                self._measurements.failure("foreign", f"host {host.id} in /api/hosts of {tenant.org}", medium="API")
        return [host for host in listed if tenant.owns(host.id)]

    def read(self, answer: Answer, into: type[T], what: str) -> T | None:
        """The body of a good answer; None: it was none, or has another form, which is recorded."""
        if not 200 <= answer.status < 300:
            return None
        try:
            return msgspec.json.decode(answer.body, type=into)
        except msgspec.DecodeError as error:
            self._measurements.failure("bad_answer", f"{what}: {error}", medium="API")
            return None
