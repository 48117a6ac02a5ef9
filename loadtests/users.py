"""Simulated browsers for Locust. Runs in Locust's own process only: importing it patches the standard library."""

import locust  # first: it patches the standard library for gevent

# isort: split
import itertools
import os
import random
import time
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from locust import HttpUser, between, events, task
from locust.runners import MasterRunner, WorkerRunner
from msgspec import Struct

from loadtests.measure import ClockOffset, Measurements, now_us
from loadtests.tokens import user_token
from loadtests.watch import Watch
from loadtests.ws_client import LiveClosedError, LiveRefusedError, LiveSocket
from server.protocol.messages import ContainerStatus, HostStatus, LiveHeartbeat, Subscribe

MEASUREMENTS = "SEATRIAL_MEASUREMENTS"
"""Names the file that gets the measurements when the test stops."""

HTTP_SECONDS = 10.0
HEARTBEAT_SECONDS = 5.0
SILENT_SECONDS = 10.0
"""Longest wait for the echo of a heartbeat."""
TAIL_LINES = 200
HOSTS = 100
"""Hosts asked for, of which one is watched."""

T = TypeVar("T", bound=Struct)


class Ticket(Struct):
    """Answer to `POST /api/live-tickets`."""

    ticket: str
    expires_in_seconds: int


class HostPage(Struct):
    """Answer to `GET /api/hosts`."""

    hosts: tuple[HostStatus, ...]
    next: str | None = None


class ContainerPage(Struct):
    """Answer to `GET /api/hosts/{id}/containers`."""

    containers: tuple[ContainerStatus, ...]


class UiSubscriber(HttpUser):
    """Somebody who looks at the fleet, one host, one container and its log for a while, leaves, and comes again."""

    wait_time = between(0.5, 2)
    _numbers = itertools.count(1)

    def on_start(self) -> None:
        """Take a name of its own."""
        self.subject = f"loadtest-{next(self._numbers)}"
        # Proxies of the environment are for the outside; a load test goes straight to its server.
        self.client.trust_env = False
        self.measurements: Measurements = self.environment.seatrial_measurements

    @task
    def visit(self) -> None:
        """One visit, with a ticket of its own."""
        self._authorization = {"Authorization": f"Bearer {user_token(os.environ, self.subject)}"}
        ticket = self._request("POST", "/api/live-tickets", Ticket, 201)
        if ticket is None:
            return
        try:
            socket = LiveSocket(self.host, ticket.ticket)
        except LiveRefusedError as refused:
            self.measurements.failure("refused", str(refused))
            return
        self.measurements.visit()
        watch = Watch(self.measurements, ClockOffset())
        try:
            self._look(socket, watch)
        except LiveClosedError as closed:
            self.measurements.closed(closed.code, closed.reason)
        except TimeoutError as error:
            self.measurements.failure("silent", str(error))
        finally:
            socket.close()

    def _look(self, socket: LiveSocket, watch: Watch) -> None:
        """Learn the clock, find something to watch, and watch it."""
        self._read(socket, watch, seconds=SILENT_SECONDS, until_echo=True)
        page = self._request("GET", "/api/hosts", HostPage, 200, params={"limit": HOSTS})
        hosts = [host for host in page.hosts if host.containers] if page else []
        if not hosts:
            return
        host = random.choice(hosts).id
        listed = self._request("GET", f"/api/hosts/{host}/containers", ContainerPage, 200, "/api/hosts/[id]/containers")
        if listed is None or not listed.containers:
            return
        containers = [container.id for container in listed.containers]
        topics = watch.ask(host, random.choice(containers), containers)
        socket.send(Subscribe(topics=topics, tail=TAIL_LINES))
        self._read(socket, watch, seconds=self.environment.parsed_options.visit_seconds * random.uniform(0.8, 1.2))
        watch.leave()

    def _read(self, socket: LiveSocket, watch: Watch, *, seconds: float, until_echo: bool = False) -> None:
        """Read for `seconds` with a heartbeat at the start and every 5 s, or until its echo came.

        Raises:
            TimeoutError: a heartbeat was not echoed in time.
            LiveClosedError: the socket is closed.
        """
        end = time.monotonic() + seconds
        beat = time.monotonic()
        silent_at = None
        echoes = watch.echoes
        while (now := time.monotonic()) < end:
            if now >= beat:
                socket.send(LiveHeartbeat(at=now_us()))
                beat = now + HEARTBEAT_SECONDS
                silent_at = silent_at or now + SILENT_SECONDS
            if silent_at and now >= silent_at:
                break
            try:
                frame = socket.receive(min(end, beat) - now)
            except TimeoutError:
                continue
            watch.receive(frame, now_us())
            if watch.echoes > echoes:
                echoes, silent_at = watch.echoes, None
                if until_echo:
                    return
        if until_echo or (silent_at and time.monotonic() >= silent_at):
            raise TimeoutError(f"no echo of a heartbeat within {SILENT_SECONDS:g} s")

    def _request(
        self, method: str, path: str, answer: type[T], status: int, name: str | None = None, **more: Any
    ) -> T | None:
        """The answer to a request; None: it failed, which is recorded."""
        with self.client.request(
            method,
            path,
            name=name or path,
            headers=self._authorization,
            timeout=HTTP_SECONDS,
            catch_response=True,
            **more,
        ) as response:
            try:
                if response.status_code != status:
                    raise ValueError(f"HTTP {response.status_code}: expected {status}")
                return msgspec.json.decode(response.content, type=answer)
            except (ValueError, msgspec.DecodeError) as error:
                response.failure(str(error))
                self.measurements.failure("http", f"{method} {path}: {error}")
        return None


@events.init_command_line_parser.add_listener
def _add_options(parser: Any) -> None:
    parser.add_argument(
        "--visit-seconds", type=float, default=25.0, env_var="SEATRIAL_VISIT_SECONDS",
        help="How long a simulated browser stays, give or take a fifth",
    )  # fmt: skip


@events.init.add_listener
@events.test_start.add_listener
def _begin(environment: locust.env.Environment, **_: Any) -> None:
    """Every test has measurements of its own: the web UI starts several in a process."""
    environment.seatrial_measurements = Measurements(environment.events.request.fire)


@events.test_stop.add_listener
@events.quitting.add_listener
def _write(environment: locust.env.Environment, **_: Any) -> None:
    """Both events write, because a signal makes Locust quit before it stops the users."""
    name = os.environ.get(MEASUREMENTS)
    if not name or isinstance(environment.runner, MasterRunner):
        return
    path = Path(name)
    if isinstance(environment.runner, WorkerRunner):
        path = path.with_name(f"{path.stem}-{os.getpid()}{path.suffix}")
    environment.seatrial_measurements.write(path)
