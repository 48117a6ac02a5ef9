"""`seatrial demo`: a server, its database and a fleet to try by hand, until Ctrl-C."""

import asyncio
import contextlib
import json
import os
import secrets
import shlex
import signal
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtests.children import Child, ChildError, python
from loadtests.scrape import get, scrape
from loadtests.stage import ORG, READY_TIMEOUT_SECONDS, outer_environment
from loadtests.tokens import JWT_SECRET, LIFE_SECONDS, user_token
from loadtests.tokens import ORG as ORG_VARIABLE
from server.db.embedded import free_port

ROLES = ("viewer", "operator", "admin")
CONTAINERS, LOG_LINES = 5, 5
"""Of each agent: a line a second for each container, so that every log has something to show."""
HOSTS = 3
"""That the guide lists."""
DATA_TIMEOUT_SECONDS = 60.0
READ_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Demo:
    """What to run and where.

    Raises:
        ValueError: on creation; it names the option.
    """

    folder: Path
    """Kept: the database, logs, and files with the tokens."""
    agents: int
    port: int
    """0 takes a free one."""

    def __post_init__(self) -> None:
        if not 1 <= self.agents <= 10_000:
            raise ValueError(f"--agents {self.agents}: expected 1 to 10000")
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"--port {self.port}: expected 0 to 65535")


async def run(demo: Demo, say: Callable[[str], None]) -> int:
    """Run it until SIGINT (returns 130) or SIGTERM (returns 0); everything has ended then.

    Args:
        demo: what to run.
        say: gets each line for people.

    Raises:
        ChildError: a part did not start, or ended.
        OSError: the folder cannot be written.
    """
    demo.folder.mkdir(parents=True, exist_ok=True)
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(code: int) -> None:
        if not stopped.done():
            stopped.set_result(code)

    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 0)):
        loop.add_signal_handler(number, stop, code)
    working = asyncio.ensure_future(_Stage(demo, say).perform())
    try:
        ends: set[asyncio.Future[Any]] = {working, stopped}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            say("stopping")
            return stopped.result()
        await working
        return 0
    finally:
        # Cancelled, it stops its processes in order; a second signal changes nothing.
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError, ChildError, OSError):
            await working
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


class _Stage:
    def __init__(self, demo: Demo, say: Callable[[str], None]) -> None:
        self._demo = demo
        self._say = say
        self._folder = demo.folder.absolute()
        self._port = demo.port or free_port()
        self._http = f"http://127.0.0.1:{self._port}"
        self._environ = {JWT_SECRET: secrets.token_urlsafe(48), ORG_VARIABLE: ORG}
        self._tokens = {role: user_token(self._environ, f"demo-{role}", role) for role in ROLES}
        self._since = datetime.now(UTC)

    async def perform(self) -> None:
        """Start everything, tell how to try it, and watch until a part ends or it is cancelled.

        Raises:
            ChildError: a part ended.
        """
        secret = outer_environment() | {JWT_SECRET: self._environ[JWT_SECRET]}
        server = Child(
            "server",
            python("seatrial", "serve", "--embedded", str(self._folder / "postgres"), "--port", str(self._port)),
            secret,
            self._log("server.log"),
        )
        fleet = Child(
            "fleet",
            python(
                "seatrial", "simulate", "--url", f"ws://127.0.0.1:{self._port}", "--org", ORG,
                "--agents", str(self._demo.agents), "--containers", str(CONTAINERS), "--log-lines", str(LOG_LINES),
            ),
            secret,
            self._log("fleet.log"),
        )  # fmt: skip
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(server.stop)
            self._say("starting Postgres and the server")
            await server.start()
            await self._until(lambda: get(f"{self._http}/readyz"), READY_TIMEOUT_SECONDS, server)
            stack.push_async_callback(fleet.stop)
            self._say(f"starting {self._demo.agents} agents")
            await fleet.start()
            container = await self._until(self._container, DATA_TIMEOUT_SECONDS, server, fleet)
            self._write_headers()
            for line in self._guide(container):
                self._say(line)
            waits = {asyncio.create_task(child.wait()): child for child in (server, fleet)}
            for wait in waits:
                stack.callback(wait.cancel)
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            dead = waits[done.pop()]
            raise dead.failure(f"ended with exit code {dead.exit_code}")

    def _log(self, name: str) -> Path:
        """A log of this start alone."""
        path = self._folder / name
        path.unlink(missing_ok=True)
        return path

    async def _until(self, look: Callable[[], Any], seconds: float, *children: Child) -> Any:
        """What `look` finds, once it finds something.

        Raises:
            ChildError: a process ended, or it took too long.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while (found := await look()) is None:
            for child in children:
                if not child.running:
                    raise child.failure(f"ended with exit code {child.exit_code}")
            if loop.time() > deadline:
                raise children[-1].failure(f"gave nothing to show within {seconds:g} s")
            await asyncio.sleep(0.2)
        return found

    async def _container(self) -> Mapping[str, Any] | None:
        """A container to try things on, once the whole fleet is there: running, not protected, with lines in its log."""
        counters = await scrape(f"{self._http}/metrics")
        if counters is None or counters.get(("seatrial_agents_connected", ""), 0) < self._demo.agents:
            return None
        # Hosts are written behind: what the guide lists must be there too.
        hosts = await self._get(f"/api/hosts?limit={HOSTS}&online=true")
        if not hosts or len(hosts["hosts"]) < min(HOSTS, self._demo.agents):
            return None
        listed = await self._get(f"/api/hosts/{hosts['hosts'][0]['id']}/containers")
        fit = [c for c in (listed or {}).get("containers", ()) if c["state"] == "running" and not c.get("protected")]
        if not fit or not await asyncio.to_thread(self._fetch, self._log_path(fit[0]["id"])):
            return None
        container: Mapping[str, Any] = fit[0]
        return container

    async def _get(self, path: str) -> dict[str, Any] | None:
        body = await asyncio.to_thread(self._fetch, path)
        return None if body is None else json.loads(body)

    def _fetch(self, path: str) -> bytes | None:
        request = urllib.request.Request(  # noqa: S310 - http://127.0.0.1
            f"{self._http}{path}", headers={"Authorization": f"Bearer {self._tokens['viewer']}"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=READ_SECONDS) as response:
                return bytes(response.read())
        except (urllib.error.URLError, OSError, TimeoutError):
            return None

    def _log_path(self, container: str) -> str:
        return f"/api/containers/{container}/logs?since={self._since:%Y-%m-%dT%H:%M:%SZ}&format=text"

    # -- for people

    def _write_headers(self) -> None:
        """The tokens as files that curl takes a header from: no process list shows them."""
        for role, token in self._tokens.items():
            path = self._header_file(role)
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(f"Authorization: Bearer {token}\n")

    def _header_file(self, role: str) -> Path:
        return self._folder / f"{role}.header"

    def _curl(self, role: str, path: str, *options: str) -> str:
        words = ("curl", "-fsS", *options, "-H", f"@{self._header_file(role)}", f"{self._http}{path}")
        return " ".join(map(shlex.quote, words))

    def _guide(self, container: Mapping[str, Any]) -> Iterator[str]:
        key = container["id"]
        stop = json.dumps({"kind": "stop", "reason": "trying the demo"})
        yield ""
        yield f"{self._http}  organisation {ORG}, {self._demo.agents} agents of {CONTAINERS} containers"
        yield f"API: {self._http}/docs  metrics: {self._http}/metrics"
        yield ""
        yield f"Tokens, good for {LIFE_SECONDS // 60} minutes:"
        for role, token in self._tokens.items():
            yield f"  {role:<8}  {token}"
        yield ""
        yield f"To paste into another terminal; the container is {container['name']} of {container['host']}:"
        for what, line in {
            "hosts": self._curl("viewer", f"/api/hosts?limit={HOSTS}"),
            "a chart": self._curl("viewer", f"/api/containers/{key}/metrics?range=15m"),
            "its log as text": self._curl("viewer", self._log_path(key)),
            "the log's errors": self._curl("viewer", f"{self._log_path(key)}&contains=error"),
            "stop it": self._curl(
                "operator", f"/api/containers/{key}/actions?wait_seconds=10", "-H", "Content-Type: application/json",
                "-H", f"Idempotency-Key: {uuid.uuid4()}", "-d", stop,
            ),
            "the audit row": self._curl("admin", f"/api/audit?target=container:{key}&limit=1"),
            "a ticket for the live socket": self._curl("viewer", "/api/live-tickets", "-X", "POST"),
        }.items():  # fmt: skip
            yield f"# {what}"
            yield line
        yield ""
        yield f"Everything is in {self._folder}. Ctrl-C ends it; the data stays."


def report(line: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
