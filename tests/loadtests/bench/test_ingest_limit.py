"""How the search for the limit of the pipeline ends."""

from loadtests.bench.ingest_limit import MOST_CONTAINERS, Limit, search
from loadtests.bench.ingest_load import Load
from loadtests.bench.raw_copy import RawCopy

RAW_ROWS = 1_000


def made(ack_ms: float, containers: int, *, generator: str = "", failure: str = "") -> Load:
    """A load whose acks took so long; raw COPY of its rows takes a second for each container."""
    load = Load(seconds=10.0, rows=10.0 * RAW_ROWS, raw=RawCopy(RAW_ROWS * 20, float(containers)))
    load.ack.record_us(round(ack_ms * 1000))
    load.generator += [generator] if generator else []
    load.failures += [failure] if failure else []
    return load


async def found(first: Load, later: dict[int, Load], containers: int = 8) -> Limit:
    """What a search finds whose steps are these, in their order."""
    steps = iter(later.items())

    async def load(wanted: int) -> Load:
        expected, made_before = next(steps)
        assert wanted == expected
        return made_before

    limit = await search(containers, first, load)
    assert next(steps, None) is None
    return limit


def value(limit: Limit, name: str) -> float | None:
    """A figure of it."""
    return {figure.name: figure.value for figure in limit.figures()}[name]


async def test_late_acks_are_the_servers_limit() -> None:
    """The last load that held is told, divided by the raw COPY of its own rows."""
    limit = await found(made(100, 8), {10: made(200, 10), 12: made(2_000, 12)})

    assert (value(limit, "limit_containers"), value(limit, "limit_is_the_servers")) == (10, 1)
    assert value(limit, "limit_to_raw") == 1_000 / (20_000 / 10)
    assert limit.failures() == []
    assert "the acks at 12 containers: p99 2,0" in limit.ended_by


async def test_a_late_generator_leaves_a_lower_bound() -> None:
    """It is not told as the server's limit, and what held before stands."""
    limit = await found(made(100, 8), {10: made(5_000, 10, generator="fleet: cpu.max = 0.99 of a core")})

    assert (value(limit, "limit_containers"), value(limit, "limit_is_the_servers")) == (8, 0)
    assert limit.failures() == []
    note = limit.figures()[-1].note
    assert "only a lower bound: ended by the generator, not the server, at 10 containers: fleet: cpu.max" in note


async def test_lost_rows_make_the_report_worthless() -> None:
    """Also where the steps before them held."""
    limit = await found(made(100, 8), {10: made(100, 10, failure="the ledger is not clean: {'missing': 1}")})

    assert limit.failures() == ["the ledger is not clean: {'missing': 1}"]
    assert (value(limit, "limit_containers"), value(limit, "limit_is_the_servers")) == (8, 0)


async def test_no_load_that_held_is_no_limit() -> None:
    """Acks that are late in the first load, or never come, or a generator that is: there is nothing to tell."""
    for first in (made(2_000, 8), made(100, 8, generator="fleet: late"), Load()):
        limit = await found(first, {})
        assert value(limit, "limit_rows_per_second") is None
        assert limit.failures()[0].startswith("--find-limit: no load held")


async def test_the_search_ends() -> None:
    """At the most containers that an agent can have, as a lower bound."""
    limit = await found(made(100, 900), {MOST_CONTAINERS: made(100, 1_000)}, containers=900)

    assert (value(limit, "limit_containers"), value(limit, "limit_is_the_servers")) == (1_000, 0)
    assert limit.failures() == []
