"""HTTP for simulated users without Locust: a client that is told its answers, and one that asks a real server."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import requests

from loadtests.api import Api, Identity
from loadtests.recorded import Measurements


class Asked(NamedTuple):
    """A request."""

    method: str
    path: str
    params: dict[str, Any]
    body: Any
    headers: dict[str, str]


class FakeResponse:
    """An answer as Locust's session gives it."""

    def __init__(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        self.status_code = status
        self.headers = headers or {}
        self.content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.failed = ""

    def success(self) -> None:
        """It counts as good."""

    def failure(self, why: str) -> None:
        """It counts as failed."""
        self.failed = why


class FakeClient:
    """Answers by a function; keeps what was asked."""

    def __init__(self, answer: Callable[[Asked], FakeResponse]) -> None:
        self._answer = answer
        self.asked: list[Asked] = []

    @contextmanager
    def request(self, method: str, url: str, **options: Any) -> Iterator[FakeResponse]:
        """See `loadtests.api.Client`."""
        asked = Asked(method, url, options.get("params") or {}, options.get("json"), options["headers"])
        self.asked.append(asked)
        yield self._answer(asked)


class RealClient:
    """Asks a server, one connection at a time."""

    def __init__(self, http: str) -> None:
        self._http = http
        self._session = requests.Session()
        self._session.trust_env = False

    @contextmanager
    def request(self, method: str, url: str, **options: Any) -> Iterator[FakeResponse]:
        """See `loadtests.api.Client`."""
        for name in ("name", "catch_response"):
            options.pop(name)
        found = self._session.request(method, f"{self._http}{url}", **options)
        answer = FakeResponse(found.status_code, found.content)
        answer.headers = found.headers  # type: ignore[assignment] # it looks names up in any case
        yield answer

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


class Recorder:
    """Measurements, and the kinds of failure that Locust was told."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.measurements = Measurements(self._fire)

    def _fire(self, **told: Any) -> None:
        if told["exception"]:
            self.failures.append(told["name"])

    def api(self, client: FakeClient | RealClient, subject: str = "ann", role: str = "viewer") -> Api:
        """The API for somebody."""
        return Api(client, self.measurements, Identity(subject, role))
