"""What simulated readers ask for, and what they notice."""

from collections.abc import Callable
from typing import Any

import pytest

from loadtests import readers as module
from loadtests.answers import CHART_VALUES
from loadtests.measure import now_us
from loadtests.readers import Auditor, ChartReader, LogDownloader
from tests.support.fake_client import Asked, FakeClient, FakeResponse, Recorder

HOST = {"id": "h", "hostname": "h", "online": True, "last_seen": 1, "containers": 1}
CONTAINER = {
    "id": "7", "host": "h", "docker_id": "0", "name": "c", "series": "c", "image": "i", "state": "running",
}  # fmt: skip
CHART: dict[str, Any] = {"step_seconds": 10, "at": [1, 2], "samples": [1, 0]} | {
    name: [1.5, None] for name in CHART_VALUES
}
EMPTY = CHART | {"samples": [0, 0]} | {name: [None, None] for name in CHART_VALUES}


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEATRIAL_JWT_SECRET", "s" * 32)


def client(answer: Callable[[Asked], Any], *, state: str = "running") -> FakeClient:
    """A server with one container; `answer` gives what lies below it."""
    known = {
        "/api/hosts": {"hosts": [HOST], "next": None},
        "/api/hosts/h/containers": {"containers": [CONTAINER]},
        "/api/containers/7": CONTAINER | {"state": state},
    }

    def respond(asked: Asked) -> FakeResponse:
        if asked.path in known:
            return FakeResponse(200, known[asked.path])
        found = answer(asked)
        return found if isinstance(found, FakeResponse) else FakeResponse(200, found)

    return FakeClient(respond)


def charts(answer: Any, turns: int = 4, **options: Any) -> tuple[Recorder, FakeClient]:
    """Read charts that are answered so."""
    recorder, fake = Recorder(), client(lambda _: answer, **options)
    reader = ChartReader(recorder.api(fake), recorder.measurements)
    for _ in range(turns):
        reader.prepare()
        reader.turn(now_us())
    return recorder, fake


def test_charts_are_read_range_by_range() -> None:
    """The four ranges of one container, each measured on its own."""
    recorder, fake = charts(CHART, 8)
    ranges = [asked.params["range"] for asked in fake.asked if asked.path.endswith("/metrics")]

    assert ranges == ["15m", "1h", "6h", "24h"] * 2
    assert recorder.failures == []
    assert {n: h.count for n, h in recorder.measurements._latencies.items() if h.count} == {
        f"chart_query_{name}_ms": 2 for name in ("15m", "1h", "6h", "24h")
    }


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (CHART | {"samples": [1]}, "chart_shape"), (CHART | {"at": "x"}, "bad_answer"),
        (FakeResponse(200, b"<html>"), "bad_answer"), (FakeResponse(503, {"title": "unavailable"}), "http"),
        (FakeResponse(0, b""), "http"),
    ],
)  # fmt: skip
def test_a_chart_that_is_none_is_told(answer: Any, failure: str) -> None:
    """Arrays of different lengths, another form, no answer. The time that it took counts all the same."""
    recorder, _ = charts(answer, 1)

    assert recorder.failures == [failure]
    assert recorder.measurements._latencies["chart_query_15m_ms"].count == 1


@pytest.mark.parametrize(("warm_up", "state", "failures"), [
    (-1.0, "running", ["chart_empty"] * 4), (60.0, "running", []), (-1.0, "exited", []),
])  # fmt: skip
def test_an_empty_chart_is_wrong_once_there_must_be_something(
    monkeypatch: pytest.MonkeyPatch, warm_up: float, state: str, failures: list[str]
) -> None:
    """Not while everything only begins, and not of a container that was stopped meanwhile."""
    monkeypatch.setattr(module, "WARM_UP_SECONDS", warm_up)

    assert charts(EMPTY, state=state)[0].failures == failures


def test_logs_are_downloaded_in_both_forms() -> None:
    """The last minute as JSON and as text in turn; lines and bytes are counted."""

    def answer(asked: Asked) -> bytes:
        at = asked.params["since"]
        assert asked.params["until"] - at == 60_000_000
        lines = [b'{"at":%d,"line":0,"text":"x"}\n' % (at + i) for i in range(3)]
        return b"".join(lines) if asked.params["format"] == "json" else b"a\nb\n"

    recorder, fake = Recorder(), client(lambda asked: FakeResponse(200, answer(asked)))
    downloader = LogDownloader(recorder.api(fake), recorder.measurements)
    for _ in range(2):
        downloader.prepare()
        downloader.turn(now_us())

    recorded = recorder.measurements._recorded
    assert recorder.failures == []
    assert [a.params["format"] for a in fake.asked if a.path.endswith("/logs")] == ["json", "text"]
    assert recorded.downloaded_lines == 5
    assert recorded.downloaded_bytes > 100


@pytest.mark.parametrize(
    ("lines", "failure"),
    [
        ('{"at":%(since)d,"line":1}\n{"at":%(since)d,"line":0}\n', "log_order"), ('{"at":5,"line":0}\n', "log_order"),
        ("oops\n", "bad_answer"),
    ],
)  # fmt: skip
def test_a_wrong_log_is_told(lines: str, failure: str) -> None:
    """Out of order, from another time, or no log at all."""
    recorder = Recorder()
    fake = client(lambda asked: FakeResponse(200, (lines % asked.params).encode()))
    downloader = LogDownloader(recorder.api(fake), recorder.measurements)
    downloader.prepare()
    downloader.turn(now_us())

    assert recorder.failures == [failure]


def test_a_download_that_failed_took_its_time() -> None:
    """The slowest answers are those that never came: they stay in the percentiles."""
    recorder, fake = Recorder(), client(lambda _: FakeResponse(0, b""))
    downloader = LogDownloader(recorder.api(fake), recorder.measurements)
    downloader.prepare()
    downloader.turn(now_us() - 30_000_000)

    assert recorder.failures == ["http"]
    assert recorder.measurements._latencies["log_download_ms"].statistics()["p50"] >= 29_900


def entry(number: int) -> dict[str, Any]:
    """An audit entry."""
    return {
        "id": str(number), "at": 1, "actor": "a", "role": "admin", "action": "host.enrol", "target": "host:x", "reason": "",
        "result": "done",
    }  # fmt: skip


def audited(pages: dict[str, dict[str, Any]], export: bytes) -> Recorder:
    """Read an audit log of these pages by what they come after."""

    def answer(asked: Asked) -> FakeResponse:
        if asked.params.get("format") == "csv":
            return FakeResponse(200, export)
        return FakeResponse(200, pages[asked.params.get("after", "")])

    recorder = Recorder()
    Auditor(recorder.api(client(answer), "eve", "admin"), recorder.measurements).turn()
    return recorder


GOOD_PAGES: dict[str, dict[str, Any]] = {
    "": {"entries": [entry(9), entry(8)], "next": "8"}, "8": {"entries": [entry(5)], "next": None},
}  # fmt: skip


def test_the_audit_log_is_read_back_to_its_beginning() -> None:
    """Page by page and as a file."""
    assert audited(GOOD_PAGES, b"id,at\r\n9,1\r\n8,1\r\n").failures == []


@pytest.mark.parametrize(
    ("pages", "export", "failure"),
    [
        ({"": {"entries": [entry(8), entry(9)], "next": None}}, b"id\r\n", "audit_order"),
        (GOOD_PAGES | {"8": {"entries": [entry(8)], "next": None}}, b"id\r\n", "audit_order"),
        (GOOD_PAGES, b"id\r\n1\r\n2\r\n", "audit_order"), (GOOD_PAGES, b"no such file", "bad_answer"),
    ],
    ids=["oldest first", "twice over two pages", "csv oldest first", "no csv"],
)  # fmt: skip
def test_a_wrong_audit_log_is_told(pages: dict[str, dict[str, Any]], export: bytes, failure: str) -> None:
    """Order and doubles over all pages, and the form of the file."""
    recorder = audited(pages, export)

    assert recorder.failures == [failure]
