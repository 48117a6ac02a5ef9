"""The dashboard and the alert rules against what a running server's /metrics has."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from server.counters import _LABELLED
from tests.support.rows import add_containers, add_samples
from tests.support.server import RunningServer, now_us

FOLDER = Path(__file__).parents[2] / "docs" / "observability"
OF_PROMETHEUS = {"instance", "job"}
SELECTOR = re.compile(r"\b(seatrial_\w+)(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}


class Expression(NamedTuple):
    """A PromQL expression, and the labels that the text beside it shows."""

    where: str
    text: str
    shown: frozenset[str]


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    found: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return found


def rules() -> list[dict[str, Any]]:
    """The alert rules."""
    [group] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> Iterator[Expression]:
    """Everything that asks Prometheus."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            shown = frozenset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            yield Expression(f"panel {panel['title']}", target["expr"], shown)
    for rule in rules():
        shown = frozenset(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        yield Expression(rule["alert"], rule["expr"], shown)


def wrong(expression: Expression, known: dict[str, set[str]]) -> list[str]:
    """Names and labels of an expression that the server does not have."""
    found, labels = [], set(OF_PROMETHEUS)
    for name, matchers in SELECTOR.findall(expression.text):
        if name not in known:
            found.append(f"{expression.where}: {name} is not on /metrics")
            continue
        labels |= known[name]
        asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        found += [f"{expression.where}: {name} has no label {label}" for label in asked - known[name] - OF_PROMETHEUS]
    grouped = {
        label.strip() for group in GROUPING.findall(expression.text) for label in group.split(",") if label.strip()
    }
    found += [f"{expression.where}: no label {label}" for label in (grouped | expression.shown) - labels]
    return found


async def known_metrics(server: RunningServer, database: str) -> dict[str, set[str]]:
    """Sample names of /metrics with their labels, those without a sample so far included."""
    (container,) = await add_containers(database, {})
    await add_samples(database, container, [(now_us(), 1.0, 1, 1, 1)])
    await server.service.storage_watch.look()
    text = (await server.get("/metrics")).text
    known: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(text):
        for suffix in SUFFIXES[family.type]:
            known[family.name + suffix].update(*(sample.labels for sample in family.samples))
    for name, (_, labels) in _LABELLED.items():
        known[f"seatrial_{name}_total"].update(labels)
    return known


async def test_every_name_and_label_is_one_of_the_server(server: RunningServer, database: str) -> None:
    """What a panel or an alert asks for is on /metrics, or it would be empty for ever and never fire."""
    known = await known_metrics(server, database)
    asked = list(expressions())

    assert len(asked) > 40
    assert [mistake for expression in asked for mistake in wrong(expression, known)] == []
    assert wrong(Expression("x", "rate(seatrial_flushes[5m])", frozenset()), known) == [
        "x: seatrial_flushes is not on /metrics"
    ]
    assert set(wrong(Expression("x", 'sum by (host) (seatrial_table_bytes{tables="t"})', frozenset({"le"})), known)) == {
        "x: seatrial_table_bytes has no label tables", "x: no label host", "x: no label le",
    }  # fmt: skip


def test_every_expression_is_closed() -> None:
    """Brackets match, in their order; text in quotes does not count."""
    closing = {")": "(", "]": "[", "}": "{"}
    for expression in expressions():
        waiting: list[str] = []
        for sign in re.sub(r'"[^"]*"', "", expression.text):
            if sign in "([{":
                waiting.append(sign)
            elif sign in closing:
                assert waiting, expression
                assert waiting.pop() == closing[sign], expression
        assert not waiting, expression


def test_rules_tell_who_is_woken_and_why() -> None:
    """Each has a name of its own, a severity, a summary that names the server, and says what to do."""
    found = rules()

    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert rule["labels"]["severity"] in {"page", "warn"}, rule
        assert "$labels.instance" in rule["annotations"]["summary"], rule
        assert rule["annotations"]["description"].endswith("."), rule
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule


def test_panels_lie_beside_each_other() -> None:
    """None hides another, each has an id of its own and a description."""
    panels = dashboard()["panels"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(set(cells)) == len(cells)
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"] for panel in panels if panel["type"] != "row")


async def test_the_watch_tells_what_the_tables_hold(server: RunningServer, database: str) -> None:
    """Bytes, rows and age of each table, the write-ahead log, connections; ages grow while nobody looks."""
    (container,) = await add_containers(database, {})
    await add_samples(database, container, [(now_us() - 100_000_000, 1.0, 1, 1, 1)])

    before = await known_values(server)
    after = await known_values(server)

    assert 100 <= before["seatrial_oldest_row_age_seconds", "container_metric"] < 200
    assert (
        after["seatrial_oldest_row_age_seconds", "container_metric"]
        > before["seatrial_oldest_row_age_seconds", "container_metric"]
    )
    assert before["seatrial_table_bytes", "container_metric"] > 0
    assert before["seatrial_index_bytes", "container_log"] > 0
    assert ("seatrial_dead_rows", "metric_minute") in before
    assert before["seatrial_wal_bytes_total", ""] > 1_000_000
    assert 1 <= before["seatrial_database_connections", ""] < before["seatrial_database_connections_limit", ""]


async def known_values(server: RunningServer) -> dict[tuple[str, str], float]:
    """Values of /metrics by name and table."""
    await server.service.storage_watch.look()
    text = (await server.get("/metrics")).text
    return {
        (sample.name, sample.labels.get("table", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
