"""What simulated users do who only read: charts, logs, the audit log."""

import time
from random import Random

from loadtests.answers import (
    AuditPage,
    Chart,
    audit_disorder,
    csv_ids,
    json_lines,
    log_disorder,
)
from loadtests.api import Api
from loadtests.measure import now_us
from loadtests.places import Places, is_running
from loadtests.recorded import CHART_RANGES, Measurements
from server.protocol.messages import ContainerStatus

CHART_SECONDS = 1.0
DOWNLOAD_SECONDS = 2.0
AUDIT_SECONDS = 5.0
"""Between two turns of one user."""
WARM_UP_SECONDS = 10.0
"""After a reader's first container was found: from then on a chart without any value is wrong."""
DOWNLOADED_US = 60_000_000
"""A download takes the last minute."""
AUDIT_PAGES = 10
AUDIT_LIMIT = 200


class ChartReader:
    """Looks at one container after the other, each over the four ranges in turn."""

    def __init__(self, api: Api, measurements: Measurements, chance: Random | None = None) -> None:
        self._api = api
        self._measurements = measurements
        self._places = Places(api, chance)
        self._container: ContainerStatus | None = None
        self._turn = 0
        self._warm_at = 0.0

    def prepare(self) -> None:
        """Choose a container before the turn is due: looking for it is no part of the chart's time."""
        if self._container is None:
            self._container = self._places.container(is_running)

    def turn(self, due_us: int) -> None:
        """Read the next chart, which was due at a time in Unix microseconds."""
        found = self._container
        if found is None:
            return
        name = CHART_RANGES[self._turn % len(CHART_RANGES)]
        self._turn += 1
        if self._turn % len(CHART_RANGES) == 0:
            self._container = None  # the next round looks at another one
        self._warm_at = self._warm_at or time.monotonic() + WARM_UP_SECONDS
        container = found.id
        path = f"/api/containers/{container}/metrics"
        counted = f"/api/containers/[id]/metrics?range={name}"
        answer = self._api.send("GET", path, expect=(200,), name=counted, params={"range": name})
        self._measurements.took(f"chart_query_{name}_ms", due_us)  # also a failure: what never came was slowest of all
        if answer.status != 200:
            return
        chart = self._api.read(answer, Chart, counted)
        if chart is None:
            return
        if wrong := chart.wrong_shape():
            self._measurements.failure("chart_shape", f"container {container}, {name}: {wrong}", medium="API")
        elif chart.empty and time.monotonic() > self._warm_at and self._still_runs(container):
            self._measurements.failure("chart_empty", f"container {container}, {name}", medium="API")

    def _still_runs(self, container: str) -> bool:
        """An operator may have stopped it; where retention is short nothing is left of it then."""
        found = self._api.get(f"/api/containers/{container}", ContainerStatus, "/api/containers/[id]")
        return found is not None and is_running(found)


class LogDownloader:
    """Downloads the last minute of one container after the other, as JSON and as text in turn."""

    def __init__(self, api: Api, measurements: Measurements, chance: Random | None = None) -> None:
        self._api = api
        self._measurements = measurements
        self._places = Places(api, chance)
        self._container: ContainerStatus | None = None
        self._turn = 0

    def prepare(self) -> None:
        """Choose a container before the turn is due."""
        if self._container is None:
            self._container = self._places.container(is_running)

    def turn(self, due_us: int) -> None:
        """Make the next download, which was due at a time in Unix microseconds."""
        container, self._container = self._container, None
        if container is None:
            return
        form = ("json", "text")[self._turn % 2]
        self._turn += 1
        until_us = now_us()
        since_us = until_us - DOWNLOADED_US
        answer = self._api.send(
            "GET",
            f"/api/containers/{container.id}/logs",
            expect=(200,),
            name=f"/api/containers/[id]/logs?format={form}",
            params={"since": since_us, "until": until_us, "format": form},
        )
        self._measurements.took("log_download_ms", due_us)
        if answer.status != 200:
            return
        self._measurements.downloaded(answer.body.count(b"\n"), len(answer.body))
        if form == "json":
            self._check(container.id, answer.body, since_us, until_us)

    def _check(self, container: str, body: bytes, since_us: int, until_us: int) -> None:
        try:
            lines = list(json_lines(body))
        except ValueError as error:
            self._measurements.failure("bad_answer", f"log of container {container}: {error}", medium="API")
            return
        if wrong := log_disorder(lines, since_us, until_us):
            self._measurements.failure("log_order", f"container {container}: {wrong}", medium="API")


class Auditor:
    """Reads the audit log backwards page by page, and as a file."""

    def __init__(self, api: Api, measurements: Measurements) -> None:
        self._api = api
        self._measurements = measurements

    def turn(self) -> None:
        """Look at the newest pages, then export the last minute."""
        ids: list[int] = []
        after: str | None = None
        for _ in range(AUDIT_PAGES):
            params = {"limit": str(AUDIT_LIMIT)} | ({} if after is None else {"after": after})
            page = self._api.get("/api/audit", AuditPage, params=params)
            if page is None:
                return
            ids += [int(entry.id) for entry in page.entries]
            after = page.next
            if after is None:
                break
        self._order(ids, "by page")
        since_us = now_us() - DOWNLOADED_US
        answer = self._api.send(
            "GET",
            "/api/audit",
            expect=(200,),
            name="/api/audit?format=csv",
            params={"format": "csv", "since": since_us},
        )
        if answer.status != 200:
            return
        try:
            self._order(csv_ids(answer.body), "as csv")
        except ValueError as error:
            self._measurements.failure("bad_answer", f"audit log as csv: {error}", medium="API")

    def _order(self, ids: list[int], how: str) -> None:
        if wrong := audit_disorder(ids):
            self._measurements.failure("audit_order", f"{how}: {wrong}", medium="API")
