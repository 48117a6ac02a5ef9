"""Simulated users for Locust. Runs in Locust's own process only: importing it patches the standard library."""

import locust  # first: it patches the standard library for gevent

# isort: split
import itertools
import os
from collections import defaultdict
from random import Random
from typing import ClassVar

from locust import HttpUser, LoadTestShape, task

from loadtests import locust_hooks
from loadtests.action_feed import ActionFeed
from loadtests.api import Api, Identity
from loadtests.locust_hooks import (
    AGENTS,
    AUDITORS,
    CHART_READERS,
    LOG_DOWNLOADERS,
    OPERATORS,
    ORGANISATIONS,
    RECONNECTING,
    SHAPE,
    SLOW,
    count_of,
    shape_of,
)
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
from loadtests.stored import StoredCheck
from loadtests.tenants import dealt, tenant
from loadtests.tokens import DEFAULT_ORG, ORG, VIEWER
from loadtests.visits import Visitor, read_slowly, reconnect, walk

_GOLDEN = 0.618033988749895
"""Multiples of it, without their whole part, lie evenly between 0 and 1, however many there are."""
WORKERS_APART = 100_000
"""Numbers of users of one worker; those of the next begin behind them."""


class ApiUser(HttpUser):
    """Somebody who is signed in. Users of a class have numbers, over all processes, and begin their turns apart."""

    abstract = True
    weight = 0  # beside browsers there are only as many as were asked for
    role = VIEWER
    _numbers: ClassVar["defaultdict[str, itertools.count[int]]"] = defaultdict(itertools.count)

    def on_start(self) -> None:
        """Take a name of its own."""
        kind = type(self).__name__
        worker = getattr(self.environment.runner, "worker_index", 0)
        local = next(self._numbers[kind])
        self.number = worker * WORKERS_APART + local
        self.chance = Random(f"{self.environment.parsed_options.seed}/{kind}/{self.number}")
        # Proxies of the environment are for the outside; a load test goes straight to its server.
        self.client.trust_env = False
        # A CA of one's own is named once for all clients; this one alone does not look there by itself.
        self.client.verify = os.environ.get("SSL_CERT_FILE") or True
        self.measurements: Measurements = self.environment.seatrial_measurements
        org = os.environ.get(ORG) or DEFAULT_ORG
        place = dealt(local, worker, self.environment.seatrial_workers)
        self.tenant = tenant(org, count_of(ORGANISATIONS) or 1, place, count_of(AGENTS))
        identity = Identity(f"loadtest-{kind}-{self.number + 1}", self.role, self.tenant)
        self.api = Api(self.client, self.measurements, identity)

    def pace(self, period_seconds: float) -> Pace:
        """Turns of this user, spread among those of its class."""
        return Pace(period_seconds, self.number * _GOLDEN % 1, self.measurements.skipped)


class Browser(ApiUser):
    """Somebody who comes, looks at something live, leaves, and comes again."""

    abstract = True

    def on_start(self) -> None:
        """Open the browser."""
        super().on_start()
        options = self.environment.parsed_options
        stored = StoredCheck(self.api, self.measurements, self.environment.seatrial_turnstile, options.check_seconds)
        run = self.environment.seatrial_run
        self._visitor = Visitor(self.api, self.host, self.measurements, stored, self.chance, run)

    def wait_time(self) -> float:
        """Between two visits, in seconds."""
        return self.chance.uniform(0.5, 2)

    def stay(self) -> float:
        """How long the next visit takes, in seconds."""
        return float(self.environment.parsed_options.visit_seconds * self.chance.uniform(0.8, 1.2))


class UiSubscriber(Browser):
    """Somebody who looks at the fleet, one host, one container and its log for a while."""

    weight = 1

    @task
    def visit(self) -> None:
        """One visit, with a ticket of its own."""
        walk(self._visitor, self.stay())


class SlowBrowser(Browser):
    """Somebody whose browser takes a tenth of what comes."""

    fixed_count = count_of(SLOW)

    @task
    def visit(self) -> None:
        """One visit."""
        read_slowly(self._visitor, self.stay())


class ReconnectingBrowser(Browser):
    """Somebody on a bad network."""

    fixed_count = count_of(RECONNECTING)

    @task
    def visit(self) -> None:
        """One visit, over many connections with a ticket each."""
        reconnect(self._visitor, self.stay())


class OperatorUser(ApiUser):
    """Starts, stops and restarts containers, at a rate that all operators share."""

    fixed_count = count_of(OPERATORS)
    role = "operator"

    def on_start(self) -> None:
        """Open the screen."""
        super().on_start()
        options = self.environment.parsed_options
        self._ends_us = round(options.actions_until * 1e6)
        self._pace = self.pace(max(1, self.fixed_count) / options.actions_per_second)
        self._feed = ActionFeed(self.api, self.host, self.measurements)
        self._operator = Operator(
            self.api, Identity(f"loadtest-viewer-{self.number + 1}", tenant=self.tenant), self._feed, self.measurements,
            self.environment.seatrial_attempts, self.environment.seatrial_run, first=3 * self.number,
            chance=self.chance,
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

    fixed_count = count_of(CHART_READERS)

    def on_start(self) -> None:
        """Open the page."""
        super().on_start()
        self._pace = self.pace(CHART_SECONDS)
        self._reader = ChartReader(self.api, self.measurements, self.chance)

    @task
    def read(self) -> None:
        """The next chart."""
        self._reader.prepare()
        self._reader.turn(self._pace.next())


class LogUser(ApiUser):
    """Downloads logs."""

    fixed_count = count_of(LOG_DOWNLOADERS)

    def on_start(self) -> None:
        """Open the page."""
        super().on_start()
        self._pace = self.pace(DOWNLOAD_SECONDS)
        self._downloader = LogDownloader(self.api, self.measurements, self.chance)

    @task
    def download(self) -> None:
        """The next download."""
        self._downloader.prepare()
        self._downloader.turn(self._pace.next())


class AuditUser(ApiUser):
    """Reads the audit log."""

    fixed_count = count_of(AUDITORS)
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


class BrowserShape(LoadTestShape):
    """How many browsers there are over time; the other users are there from the start."""

    def __init__(self) -> None:
        super().__init__()
        self._shape = shape_of(os.environ.get(SHAPE))

    def tick(self) -> tuple[int, float] | None:
        """Users of all kinds who are to be there now, and how many may come or go in a second; None: all leave."""
        options = self.runner.environment.parsed_options
        over = options.run_time and self.get_run_time() >= options.run_time  # Locust leaves that to the shape, too
        if over or self.runner.environment.seatrial_leaving:
            return None
        others = sum(kind.fixed_count for kind in self.runner.environment.user_classes)
        browsers = self._shape.browsers(max(1, (options.num_users or 1) - others), self.get_run_time())
        return others + browsers, options.spawn_rate or 1


locust_hooks.register(locust.events)
