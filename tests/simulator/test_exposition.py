"""The fleet's figures for Prometheus."""

import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from simulator.exposition import COUNTERS, FAULTS, GAUGES, HISTOGRAMS, Exposition
from simulator.plan import PlanError
from tests.simulator.test_view import a_status

DOCUMENT = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()


def scrape(port: int) -> dict[tuple[str, str], float]:
    """Every sample by name and first label's value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_gets_the_figures_of_the_view() -> None:
    """Counts are as the status has them; latencies add up over the seconds, in seconds; faults by kind."""
    with Exposition(0) as exposition:
        exposition.update(a_status())
        exposition.update(a_status(at_us=2_000_000, connected=10))
        found = scrape(exposition.port)

    assert found["seatrial_fleet_agents_connected", ""] == 10
    assert found["seatrial_fleet_batches_sent_total", ""] == 110
    assert found["seatrial_fleet_cpu_cores", ""] == 0.5
    assert found["seatrial_fleet_faults_total", "disconnect"] == 4
    assert found["seatrial_fleet_ack_latency_seconds_count", ""] == 200
    assert found["seatrial_fleet_ack_latency_seconds_bucket", "0.001"] == 196
    assert found["seatrial_fleet_ack_latency_seconds_bucket", "0.05"] == 200
    assert found["seatrial_fleet_ack_latency_seconds_sum", ""] == pytest.approx(2 * (98 * 0.001 + 2 * 0.05))


def test_it_ends_with_the_fleet() -> None:
    """Nothing listens any more; it listened on the loopback address alone."""
    with Exposition(0) as exposition:
        assert exposition._server.server_address[0] == "127.0.0.1"
    with pytest.raises(urllib.error.URLError):
        scrape(exposition.port)


@pytest.mark.parametrize("port", [-1, 65_536])
def test_an_impossible_port_is_named(port: int) -> None:
    """The error names option, value and what was expected."""
    with pytest.raises(PlanError, match=f"metrics-port = {port}: expected a free port of 127.0.0.1"), Exposition(port):
        pass


def test_a_port_in_use_is_named() -> None:
    """Somebody else's port is an error, not a silent absence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PlanError, match=f"metrics-port = {port}: .*in use"), Exposition(port):
            pass


def test_every_metric_is_documented() -> None:
    """Each name has its row."""
    for name in (*GAUGES, *COUNTERS, *HISTOGRAMS, FAULTS):
        assert f"| `{name}` |" in DOCUMENT
