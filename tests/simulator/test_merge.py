"""The reports of a fleet's processes become one."""

import asyncio
from typing import Any

from hdrh.histogram import HdrHistogram

from simulator.fault_option import parse_faults
from simulator.fault_report import add_faults, missed_reasons
from simulator.fleet import Fleet
from simulator.merge import add_reports
from simulator.plan import Shard
from simulator.report import report
from tests.support.fake_server import fake_server
from tests.support.fleets import plan_for


async def of_two_shards() -> list[dict[str, Any]]:
    """The reports of a fleet of three agents in two shards."""
    async with fake_server() as server:
        plans = [plan_for(server.url, agents=3, shard=Shard(n, 2), duration_us=600_000) for n in (1, 2)]
        fleets = [Fleet(plan) for plan in plans]
        await asyncio.gather(*(fleet.run(asyncio.Event()) for fleet in fleets))
    return [report(fleet) for fleet in fleets]


async def test_counts_are_added_and_histograms_lose_nothing() -> None:
    """Agents, batches, closes and each bucket of the histograms are those of both; what must be equal stays."""
    first, second = reports = await of_two_shards()
    whole = add_reports(reports)

    assert whole["agents"] == 3
    assert whole["first_agent"] == 1
    assert whole["batches"]["acked"] == first["batches"]["acked"] + second["batches"]["acked"] > 6
    assert whole["closes"] == {"1000": 3}
    assert whole["connections"][-1][1:3] == [3, 3]
    both = HdrHistogram(1, 3_600_000_000, 3)
    for one in reports:
        both.decode_and_add(one["ack_latency_ms"]["hdr"])
    assert whole["ack_latency_ms"]["hdr"] == both.encode().decode()
    assert whole["ack_latency_ms"]["count"] == whole["batches"]["acked"]
    for name in ("ack_latency_ms", "schedule_lag_ms"):
        assert whole["intervals"][name] == [*first["intervals"][name], *second["intervals"][name]]
    assert (whole["seed"], whole["interval_ms"]) == (5, 100.0)
    assert whole["cpu"]["max"] == max(first["cpu"]["max"], second["cpu"]["max"])
    assert [process["shard"] for process in whole["processes"]] == ["1/2", "2/2"]
    assert set(whole) == {*first, "processes"}


async def test_one_invalid_process_makes_the_fleet_invalid() -> None:
    """Its reason is told with its shard."""
    reports = await of_two_shards()
    for one in reports:
        one["invalid"] = []
    assert add_reports(reports)["invalid"] == []
    reports[1]["invalid"] = ["cpu.max = 0.99 of a core: expected at most 0.85"]

    assert add_reports(reports)["invalid"] == ["shard 2/2: cpu.max = 0.99 of a core: expected at most 0.85"]


async def test_connections_are_told_second_by_second() -> None:
    """A second holds the last point of each process in it, and what a silent one had before."""
    reports = await of_two_shards()
    begun = min(one["started_us"] for one in reports)
    reports[0]["connections"] = [[begun + 900_000, 5, 5, 0], [begun + 1_900_000, 7, 7, 5], [begun + 3_900_000, 0, 7, 0]]
    reports[1]["connections"] = [[begun + 950_000, 1, 1, 1], [begun + 2_950_000, 2, 4, 2]]

    assert add_reports(reports)["connections"] == [
        [begun + 950_000, 6, 6, 1],
        [begun + 1_900_000, 8, 8, 6],
        [begun + 2_950_000, 9, 11, 7],
        [begun + 3_900_000, 2, 11, 2],
    ]


async def test_the_report_of_one_process_is_itself() -> None:
    """Nothing is made up where there is nothing to add."""
    first, _ = await of_two_shards()

    assert add_reports([first]) == first


async def test_shards_strike_the_agents_of_one_fleet_and_tell_of_one_fault() -> None:
    """Two of three agents are struck, whatever their shard; counts are added, and a shard without any misses nothing."""
    faults = parse_faults(("malformed_frames:at=300ms,agents=2", "disconnect:at=200ms,agents=1"), None, 3)
    async with fake_server() as server:
        plans = [plan_for(server.url, agents=3, shard=Shard(n, 2), duration_us=600_000, faults=faults) for n in (1, 2)]
        fleets = [Fleet(plan) for plan in plans]
        await asyncio.gather(*(fleet.run(asyncio.Event()) for fleet in fleets))
    reports = [report(fleet) for fleet in fleets]
    whole = add_reports(reports)

    first, second = whole["faults"]
    assert (first["kind"], first["agents"], first["happened"], first["counts"]) == (
        "disconnect", 1, 1, {"connections": 1},
    )  # fmt: skip
    assert (second["kind"], second["agents"]) == ("malformed_frames", 2)
    assert second["happened"] == sum(one["faults"][1]["happened"] for one in reports) > 0
    assert first["begun_us"] <= first["ended_us"] < second["begun_us"]
    assert [told["missed"] for told in whole["faults"]] == ["", ""]
    assert not any("did not happen" in reason for reason in whole["invalid"])


def test_a_fault_is_missed_by_the_fleet_only_if_no_process_had_it() -> None:
    """One process could strike nobody, the other could; and where none could, the reason is told once."""
    base: dict[str, object] = {
        "kind": "disconnect", "planned": "disconnect of 0.5 at 1s", "begun_us": 5, "ended_us": 6, "agents": 2,
        "counted": "connections", "happened": 0, "counts": {}, "missed": "connections = 0 of 2 agents: none was connected",
    }  # fmt: skip
    struck = base | {"happened": 2, "counts": {"connections": 2}, "missed": "", "begun_us": 4, "ended_us": 9}

    (mixed,) = add_faults([[base], [struck]])
    (none,) = add_faults([[base], [base]])

    assert (mixed["begun_us"], mixed["ended_us"], mixed["agents"], mixed["happened"]) == (4, 9, 4, 2)
    assert missed_reasons([mixed]) == []
    assert missed_reasons([none]) == [
        "the fault disconnect of 0.5 at 1s did not happen: connections = 0 of 4 agents: none was connected"
    ]
