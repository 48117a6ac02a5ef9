"""`seatrial backfill`."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from loadtests.backfill import Wanted

_USAGE, _ENVIRONMENT, _INTERRUPTED = 2, 3, 130
_RAW_ROWS = 2_000_000


def backfill(
    hours: Annotated[float, typer.Option(help="How far back the history reaches.")],
    database_url: Annotated[str, typer.Option(envvar="SEATRIAL_DATABASE_URL", help="Where the rows go.")],
    ledger: Annotated[Path, typer.Option(help="Write what was done to this new file.")],
    agents: Annotated[int, typer.Option(help="Simulated agents.")] = 100,
    containers: Annotated[int, typer.Option(help="Containers of each agent.")] = 5,
    interval: Annotated[str, typer.Option(help="Time between two samples: 250ms, 1s, 2m.")] = "1s",
    log_lines: Annotated[int, typer.Option(help="Log lines of each agent in an interval.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of every generated value.")] = 1,
    profiles: Annotated[str, typer.Option(help="What the containers do, by weight: web=4,database=1.")] = "",
    churn_per_hour: Annotated[float, typer.Option(help="Containers of an agent that are re-created in an hour.")] = 0.0,
    org: Annotated[str, typer.Option(help="Organisation of the agents.")] = "demo",
    first_agent: Annotated[int, typer.Option(help="Number of the first agent.")] = 1,
    storage: Annotated[
        str, typer.Option(envvar="SEATRIAL_STORAGE", help="The strategy that keeps the rows.")
    ] = "plain",
    retention: Annotated[str, typer.Option(help="Of the server to come; ranges of time are cut by it.")] = "24h",
    connections: Annotated[int, typer.Option(help="Connections that write at the same time.")] = 2,
    measure_raw: Annotated[
        bool, typer.Option("--measure-raw", help="Then COPY the same rows once more by one connection, and compare.")
    ] = False,
) -> None:
    """Write what a fleet would have sent until now, straight into the tables.

    `seatrial simulate --continue LEDGER` then goes on where it ends, and `seatrial verify` verifies it. The database must
    have no rows yet. Exit code: 0 written, 2 wrong usage, 3 refused, or the database failed, 130 interrupted.
    """
    from loadtests.backfill import Wanted
    from server.db.storage.strategies import storage as strategy
    from simulator.errors import PlanError
    from simulator.profiles import DEFAULT_MIX, MixError, parse_mix

    try:
        try:
            mix = parse_mix(profiles) if profiles else DEFAULT_MIX
        except MixError as error:
            raise PlanError("profiles", profiles, str(error)) from None
        wanted = Wanted(
            hours=hours, org=org, agents=agents, first_agent=first_agent, containers=containers, log_lines=log_lines,
            interval_us=_micros("interval", interval), seed=seed, profiles=mix, churn_per_hour=churn_per_hour,
            retention_us=_micros("retention", retention), connections=connections,
        )  # fmt: skip
        strategy(storage)
        if not ledger.parent.is_dir() or ledger.exists():
            raise PlanError("ledger", ledger, "a file that does not exist yet, in a directory that exists")
    except ValueError as error:  # PlanError is one
        _fail(_USAGE, str(error))
    raise typer.Exit(_run(wanted, storage, database_url, ledger, measure_raw=measure_raw))


def _run(wanted: "Wanted", storage: str, database_url: str, ledger: Path, *, measure_raw: bool) -> int:
    import asyncpg

    from loadtests.backfill import backfilling
    from loadtests.backfill_checks import BackfillError
    from loadtests.bench import raw_copy
    from server.db.storage.strategies import storage as strategy
    from server.errors import SeatrialError

    kept = strategy(storage)

    async def work() -> None:
        async with backfilling(wanted, kept, database_url, ledger, _say) as history:
            await history.write_up_to_now()
            await history.finish()
        rate = history.rows / history.seconds
        typer.echo(f"backfill: {history.rows:,} rows in {history.seconds:.1f} s, {rate:,.0f} rows/s")
        if not measure_raw:
            return
        reading, writing = [await asyncpg.connect(database_url, timeout=10, command_timeout=600) for _ in range(2)]
        try:
            raw = await raw_copy.measure(reading, writing, kept, most_rows=_RAW_ROWS)
        finally:
            reading.terminate()
            writing.terminate()
        typer.echo(f"raw COPY: {raw.rows:,} of these rows in {raw.seconds:.1f} s, {raw.rows_per_second:,.0f} rows/s")
        typer.echo(_ratio(rate, raw.rows_per_second, wanted.connections))

    try:
        asyncio.run(work())
    except KeyboardInterrupt:
        _say(f"interrupted; {ledger} tells what is written. Another history needs a database without rows")
        return _INTERRUPTED
    except BackfillError as error:
        _fail(_ENVIRONMENT, str(error))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError, SeatrialError) as error:
        _fail(_ENVIRONMENT, f"database: {type(error).__name__}: {error}")
    return 0


def _ratio(backfill: float, raw: float, connections: int) -> str:
    """Both rates, rows/s, by their ratio; it is no share of a limit, for raw COPY has one connection."""
    several = f"{connections} connections" if connections > 1 else "one connection"
    return f"backfill : raw COPY = {backfill / raw:.2f} (backfill with {several}, raw COPY with one)"


def _micros(field: str, text: str) -> int:
    from simulator.errors import PlanError
    from simulator.scenario_format import parse_duration

    try:
        return round(parse_duration(text) * 1_000_000)
    except ValueError as error:
        raise PlanError(field, text, str(error).removeprefix("expected ")) from None


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _fail(code: int, message: str) -> NoReturn:
    _say(message)
    raise typer.Exit(code)
