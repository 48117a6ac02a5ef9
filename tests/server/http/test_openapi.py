"""The OpenAPI document against the server, by schemathesis: no crash, and no answer that the document does not know."""

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS

from tests.support import postgres
from tests.support.server import RunningServer, container, line, now_us, running_server

LEFT_OUT = {
    # Of a value that our document cannot describe (a time in RFC 3339, from before to) the answer is right to differ.
    "negative_data_rejection", "positive_data_acceptance",
    # They ask for links between operations that the document does not make.
    "use_after_free", "ensure_resource_availability", "object_level_authorization",
}  # fmt: skip
"""Checks of schemathesis that are not used; every other one is."""


class ServerThread:
    """A server in a loop of its own: schemathesis calls it by plain blocking requests."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)
        self.server: RunningServer | None = None

    def __enter__(self) -> RunningServer:
        self._thread.start()
        assert self._started.wait(60)
        assert self.server is not None
        return self.server

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        database = await postgres.create_database(self._dsn)
        async with running_server(database) as server, server.agent(containers=[container(0), container(1)]) as agent:
            await agent.batch(1, metrics=[{"ref": 0, "cpu": 1.0}], logs=[line("x", now_us())])
            await agent.acked(1)
            self.server = server
            self._started.set()
            await self._stop.wait()
        await postgres.drop_database(self._dsn, database)


@pytest.fixture(scope="module")
def threaded(postgres_dsn: str) -> Iterator[RunningServer]:
    """A running server with an agent and a little data."""
    with ServerThread(postgres_dsn) as server:
        yield server


def test_the_document_is_true(threaded: RunningServer, record_property: Callable[[str, object], None]) -> None:
    """Every operation, with good and bad values: never a 5xx, statuses, bodies and headers as documented."""
    token = threaded.user_token(role="owner")
    schema = schemathesis.openapi.from_url(f"{threaded.http}/openapi.json")
    checks: Any = [check for check in CHECKS.get_all() if check.__name__ not in LEFT_OUT]
    assert len(checks) >= 8
    asked: Counter[str] = Counter()
    answered: Counter[int] = Counter()

    def run(case: "schemathesis.Case[Any]") -> None:
        headers = {} if case.path == "/api/agents/enroll" else {"Authorization": f"Bearer {token}"}
        response = case.call(headers=headers, timeout=30)
        asked[f"{case.operation.method.upper()} {case.path}"] += 1
        answered[response.status_code] += 1
        case.validate_response(response, checks=checks, headers=headers)

    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    problems = []
    for operation in operations:
        try:
            settings(
                max_examples=25, deadline=None, database=None, derandomize=True,
                phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
            )(given(operation.as_strategy())(run))()  # type: ignore[no-untyped-call]  # fmt: skip
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - all operations are tried, then all shown
            problems.append(f"{operation.label}: {error}")
    summary = f"{len(asked)} operations, {asked.total()} requests, answers by status {dict(sorted(answered.items()))}"
    record_property("schemathesis", summary)
    sys.stdout.write(f"schemathesis: {summary}\n")
    assert problems == [], "\n\n".join(problems)
    assert len(asked) == len(operations)
