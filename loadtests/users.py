"""Simulated users for Locust. Runs in Locust's own process only: importing it patches the standard library."""

import locust  # first: it patches the standard library for gevent

# isort: split
import itertools
import os
import random
import time
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import gevent
from locust import HttpUser, between, events, task
from locust.runners import MasterRunner, WorkerRunner

from loadtests.action_feed import ActionFeed
from loadtests.api import Api, ContainerPage, HostPage, Identity, Ticket
from loadtests.attempts import AttemptLog
from loadtests.measure import ClockOffset, now_us
from loadtests.operators import Operator
from loadtests.pace import Pace
from loadtests.readers import (
    AUDIT_SECONDS,
    CHART_SECONDS,
    DOWNLOAD_SECONDS,
    Auditor,
    ChartReader,
    LogDownloader,
)
from loadtests.recorded import Measurements
from loadtests.tokens import VIEWER
from loadtests.watch import Watch
from loadtests.ws_client import LiveClosedError, LiveRefusedError, LiveSocket
from server.protocol.messages import LiveHeartbeat, Subscribe

MEASUREMENTS = "SEATRIAL_MEASUREMENTS"
"""Names the file that gets the measurements when the test stops."""
ATTEMPTS = "SEATRIAL_ATTEMPTS"
"""Names the file to which operators append each attempt."""
RUN = "SEATRIAL_RUN"
"""The run's name, with which the attempts' reasons begin."""

OPERATORS, CHART_READERS, LOG_DOWNLOADERS, AUDITORS = (
    "SEATRIAL_OPERATORS", "SEATRIAL_CHART_READERS", "SEATRIAL_LOG_DOWNLOADERS", "SEATRIAL_AUDITORS",
)  # fmt: skip
"""How many of Locust's users are of these kinds, none by default; the others are browsers."""

WRITE_SECONDS = 3.0
"""Between two writes of what was measured so far."""
HEARTBEAT_SECONDS = 5.0
SILENT_SECONDS = 10.0
"""Longest wait for the echo of a heartbeat."""
TAIL_LINES = 200
HOSTS = 100
"""Hosts asked for, of which one is watched."""


def _count(variable: str) -> int:
    text = os.environ.get(variable) or "0"
    if not text.isdecimal():
        raise SystemExit(f"{variable} = {text}: expected a number of users")
    return int(text)


class ApiUser(HttpUser):
    """Somebody who is signed in. Users of a class are numbered, and begin their turns one after the other."""

    abstract = True
    weight = 0  # beside browsers there are only as many as were asked for
    role = VIEWER
    _numbers: ClassVar["defaultdict[str, itertools.count[int]]"] = defaultdict(itertools.count)

    def on_start(self) -> None:
        """Take a name of its own."""
        kind = type(self).__name__
        self.number = next(self._numbers[kind])
        # Proxies of the environment are for the outside; a load test goes straight to its server.
        self.client.trust_env = False
        self.measurements: Measurements = self.environment.seatrial_measurements
        self.api = Api(self.client, self.measurements, Identity(f"loadtest-{kind}-{self.number + 1}", self.role))

    def pace(self, period_seconds: float) -> Pace:
        """Turns of this user, spread among those of its class."""
        users = max(1, self.fixed_count)
        return Pace(period_seconds, self.number % users / users, self.measurements.skipped)


class UiSubscriber(ApiUser):
    """Somebody who looks at the fleet, one host, one container and its log for a while, leaves, and comes again."""

    weight = 1
    wait_time = between(0.5, 2)

    @task
    def visit(self) -> None:
        """One visit, with a ticket of its own."""
        answer = self.api.send("POST", "/api/live-tickets", expect=(201,))
        ticket = self.api.read(answer, Ticket, "/api/live-tickets")
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
        page = self.api.get("/api/hosts", HostPage, params={"limit": HOSTS})
        hosts = [host for host in page.hosts if host.containers] if page else []
        if not hosts:
            return
        host = random.choice(hosts).id
        listed = self.api.get(f"/api/hosts/{host}/containers", ContainerPage, "/api/hosts/[id]/containers")
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


class OperatorUser(ApiUser):
    """Starts, stops and restarts containers, at a rate that all operators share."""

    fixed_count = _count(OPERATORS)
    role = "operator"

    def on_start(self) -> None:
        """Open the screen."""
        super().on_start()
        options = self.environment.parsed_options
        self._ends_us = round(options.actions_until * 1e6)
        self._pace = self.pace(max(1, self.fixed_count) / options.actions_per_second)
        self._feed = ActionFeed(self.api, self.host, self.measurements)
        self._operator = Operator(
            self.api, Identity(f"loadtest-viewer-{self.number + 1}"), self._feed, self.measurements,
            self.environment.seatrial_attempts, self.environment.seatrial_run, first=3 * self.number,
        )  # fmt: skip

    def on_stop(self) -> None:
        """Close it."""
        self._feed.close()

    @task
    def attempt(self) -> None:
        """The next attempt when it is due; near the end of the run none is begun that could not end."""
        self._operator.prepare()
        due_us = self._pace.next(self._operator.idle)
        if not self._ends_us or due_us < self._ends_us:
            self._operator.turn(due_us)


class ChartUser(ApiUser):
    """Reads charts."""

    fixed_count = _count(CHART_READERS)

    def on_start(self) -> None:
        """Open the page."""
        super().on_start()
        self._pace = self.pace(CHART_SECONDS)
        self._reader = ChartReader(self.api, self.measurements)

    @task
    def read(self) -> None:
        """The next chart."""
        self._reader.prepare()
        self._reader.turn(self._pace.next())


class LogUser(ApiUser):
    """Downloads logs."""

    fixed_count = _count(LOG_DOWNLOADERS)

    def on_start(self) -> None:
        """Open the page."""
        super().on_start()
        self._pace = self.pace(DOWNLOAD_SECONDS)
        self._downloader = LogDownloader(self.api, self.measurements)

    @task
    def download(self) -> None:
        """The next download."""
        self._downloader.prepare()
        self._downloader.turn(self._pace.next())


class AuditUser(ApiUser):
    """Reads the audit log."""

    fixed_count = _count(AUDITORS)
    role = "admin"

    def on_start(self) -> None:
        """Open the page."""
        super().on_start()
        self._pace = self.pace(AUDIT_SECONDS)
        self._auditor = Auditor(self.api, self.measurements)

    @task
    def audit(self) -> None:
        """The next look."""
        self._pace.next()
        self._auditor.turn()


@events.init_command_line_parser.add_listener
def _add_options(parser: Any) -> None:
    parser.add_argument(
        "--visit-seconds", type=float, default=25.0, env_var="SEATRIAL_VISIT_SECONDS",
        help="How long a simulated browser stays, give or take a fifth",
    )  # fmt: skip
    parser.add_argument(
        "--actions-per-second", type=float, default=1.0, env_var="SEATRIAL_ACTIONS_PER_SECOND",
        help="Attempts of all simulated operators together",
    )  # fmt: skip
    parser.add_argument(
        "--actions-until", type=float, default=0.0, env_var="SEATRIAL_ACTIONS_UNTIL",
        help="Unix time after which no attempt is begun; 0: until the end",
    )  # fmt: skip


@events.init.add_listener
@events.test_start.add_listener
def _begin(environment: locust.env.Environment, **_: Any) -> None:
    """Every test has measurements of its own: the web UI starts several in a process."""
    environment.seatrial_measurements = Measurements(environment.events.request.fire)


@events.init.add_listener
def _begin_attempts(environment: locust.env.Environment, **_: Any) -> None:
    """One file and one name for the whole process."""
    name = os.environ.get(ATTEMPTS)
    environment.seatrial_attempts = AttemptLog(Path(name) if name else None)
    environment.seatrial_run = os.environ.get(RUN) or f"loadtest-{uuid.uuid4().hex[:8]}"


@events.test_stop.add_listener
@events.quitting.add_listener
def _write(environment: locust.env.Environment, **_: Any) -> None:
    """Both events write, because a signal makes Locust quit before it stops the users."""
    name = os.environ.get(MEASUREMENTS)
    if not name or isinstance(environment.runner, MasterRunner):
        return
    if environment.seatrial_writing is not None:
        environment.seatrial_writing.kill()
        environment.seatrial_writing = None
    environment.seatrial_measurements.write(_path(environment, name))


@events.init.add_listener
def _write_meanwhile(environment: locust.env.Environment, **_: Any) -> None:
    """Tell every few seconds what was measured so far: a threshold may end the run by it."""
    name = os.environ.get(MEASUREMENTS)
    environment.seatrial_writing = None
    if name and not isinstance(environment.runner, MasterRunner):
        environment.seatrial_writing = gevent.spawn(_write_often, environment, name)


def _write_often(environment: locust.env.Environment, name: str) -> None:
    while True:
        gevent.sleep(WRITE_SECONDS)
        environment.seatrial_measurements.write(_path(environment, name), ended=False)


def _path(environment: locust.env.Environment, name: str) -> Path:
    """Each worker has a file of its own."""
    path = Path(name)
    if isinstance(environment.runner, WorkerRunner):
        return path.with_name(f"{path.stem}-{os.getpid()}{path.suffix}")
    return path
