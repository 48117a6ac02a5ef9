"""`seatrial bench`: programs that print figures and ratios taken in one run."""

import asyncio
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from loadtests.bench.figures import Report

_USAGE, _ENVIRONMENT, _WORTHLESS = 2, 3, 12

app = typer.Typer(
    no_args_is_help=True,
    help="Benchmarks: figures of this machine, each beside a limit or a peer measured in the same run.",
)

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file too.")]
DatabaseUrl = Annotated[str | None, typer.Option(help="A Postgres server. Default: a private one.")]
PostgresSettings = Annotated[
    list[str] | None,
    typer.Option("--postgres", metavar="NAME=VALUE", help="A setting of the private Postgres: shared_buffers=4GB."),
]
SharedBuffers = Annotated[str | None, typer.Option(metavar="SIZE", help="Memory of the private Postgres: 128MB.")]
ServerVariables = Annotated[
    list[str] | None,
    typer.Option("--server", metavar="NAME=VALUE", help="A variable of the server: SEATRIAL_LANES=4."),
]
Pins = Annotated[
    list[str] | None,
    typer.Option(
        "--pin",
        help="Hold a component to cores: server=0, postgres=0-1, fleet=, receivers=, operators=, sink=, peers=.",
    ),
]
Keep = Annotated[Path | None, typer.Option("--keep", help="Keep logs, ledger and reports in this new folder.")]


@app.command("ingest")
def bench_ingest(
    agents: Annotated[int, typer.Option(min=1, max=30_000, help="Simulated agents.")] = 10_000,
    containers: Annotated[int, typer.Option(min=1, max=1_000, help="Containers of each.")] = 10,
    log_lines: Annotated[int, typer.Option(min=0, max=100, help="Log lines of each agent and second.")] = 1,
    seconds: Annotated[int, typer.Option(min=6, max=3_600, help="How long after the ramp.")] = 60,
    ramp: Annotated[float, typer.Option(min=1, max=600, help="Seconds over which the agents connect.")] = 20.0,
    resting: Annotated[
        int, typer.Option(min=1, max=5_000, help="Connections that rest while their memory is measured.")
    ] = 1_000,
    seed: Annotated[int, typer.Option(help="Seed of every value.")] = 1,
    storage: Annotated[str, typer.Option(help="Storage strategy.")] = "plain",
    database_url: DatabaseUrl = None,
    find_limit: Annotated[bool, typer.Option("--find-limit", help="More containers until acks are late.")] = False,
    postgres: PostgresSettings = None,
    server: ServerVariables = None,
    pin: Pins = None,
    json_file: JsonFile = None,
    keep: Keep = None,
) -> None:
    """The whole pipeline, ledger verified, beside raw COPY of the same rows by one connection."""
    from loadtests.bench.ingest import run
    from loadtests.bench.ingest_load import Options

    options = Options(
        agents=agents, containers=containers, log_lines=log_lines, seconds=seconds, ramp_seconds=ramp, seed=seed,
        resting=resting, storage=storage, database_url=database_url,
        postgres=_postgres(postgres, database_url), server=_server(server), pins=_pins(pin),
    )  # fmt: skip
    _perform(lambda directory: run(options, directory, find_limit=find_limit), json_file, keep)


@app.command("storage")
def bench_storage(
    strategy: Annotated[
        list[str] | None, typer.Option(help="A storage strategy, any number of times. Default: all there are.")
    ] = None,
    containers: Annotated[int, typer.Option(min=1, max=1_000_000, help="A sample of each a second.")] = 20_000,
    window: Annotated[int, typer.Option(min=10, max=86_400, help="Seconds that a row is kept; a multiple of 10.")] = 60,
    shared_buffers: SharedBuffers = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the containers' ids.")] = 1,
    database_url: DatabaseUrl = None,
    postgres: PostgresSettings = None,
    json_file: JsonFile = None,
    keep: Keep = None,
) -> None:
    """The same samples into each strategy, empty and with a full window that is pruned, beside raw COPY."""
    from loadtests.bench.storage import INTERVALS, Options, run

    if window % INTERVALS:
        _wrong(f"--window {window}: expected a multiple of {INTERVALS}, as it is pruned so many times")
    options = Options(
        strategies=_strategies(strategy), containers=containers, window_seconds=window, seed=seed, database_url=database_url,
        postgres=_postgres(_memory(shared_buffers) + (postgres or []), database_url),
    )  # fmt: skip
    _perform(lambda directory: run(options, directory), json_file, keep)


@app.command("retention")
def bench_retention(
    strategy: Annotated[
        list[str] | None, typer.Option(help="A storage strategy, any number of times. Default: all there are.")
    ] = None,
    agents: Annotated[int, typer.Option(min=1, max=30_000, help="Simulated agents.")] = 2_000,
    containers: Annotated[int, typer.Option(min=1, max=1_000, help="Containers of each, a sample a second.")] = 10,
    log_lines: Annotated[int, typer.Option(min=0, max=100, help="Log lines of each agent and second.")] = 1,
    window: Annotated[float, typer.Option(min=5, max=86_400, help="Seconds that a row is kept.")] = 60.0,
    interval: Annotated[float, typer.Option(min=4, max=3_600, help="Seconds from one pruning to the next.")] = 15.0,
    pairs: Annotated[int, typer.Option(min=2, max=100, help="Prunings, each with the quiet time around it.")] = 8,
    ramp: Annotated[float, typer.Option(min=1, max=600, help="Seconds over which the agents connect.")] = 10.0,
    shared_buffers: SharedBuffers = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every value.")] = 1,
    database_url: DatabaseUrl = None,
    postgres: PostgresSettings = None,
    server: ServerVariables = None,
    pin: Pins = None,
    json_file: JsonFile = None,
    keep: Keep = None,
) -> None:
    """Ack latency while the server prunes a full window, beside the same between prunings; and how fast it prunes."""
    from loadtests.bench.retention import Options, run

    if interval >= window:
        _wrong(f"--interval {interval:g}: expected less than --window, which is {window:g}")
    options = Options(
        strategies=_strategies(strategy), agents=agents, containers=containers, log_lines=log_lines, window_seconds=window,
        interval_seconds=interval, pairs=pairs, ramp_seconds=ramp, seed=seed, database_url=database_url,
        postgres=_postgres(_memory(shared_buffers) + (postgres or []), database_url), server=_server(server),
        pins=_pins(pin),
    )  # fmt: skip
    _perform(lambda directory: run(options, directory), json_file, keep)


@app.command("charts")
def bench_charts(
    strategy: Annotated[str, typer.Option(help="Storage strategy.")] = "plain",
    containers: Annotated[int, typer.Option(min=1, max=100_000, help="A sample of each a second.")] = 100,
    hours: Annotated[int, typer.Option(min=1, max=24, help="How long they sent.")] = 24,
    charts: Annotated[int, typer.Option(min=10, max=100_000, help="Charts of each kind.")] = 300,
    load_seconds: Annotated[
        float, typer.Option(min=1, max=3_600, help="Of writing at full, and then of charts at half of that rate.")
    ] = 60.0,
    shared_buffers: SharedBuffers = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of ids, and of what is looked at.")] = 1,
    database_url: DatabaseUrl = None,
    postgres: PostgresSettings = None,
    json_file: JsonFile = None,
    keep: Keep = None,
) -> None:
    """Charts from the rollup and from samples: idle, at half of the load that can be stored, cold; and the rollup's cost."""
    from loadtests.bench.charts import Options, run

    options = Options(
        strategy=_strategies([strategy])[0], containers=containers, hours=hours, charts=charts,
        load_seconds=load_seconds, seed=seed, database_url=database_url,
        postgres=_postgres(_memory(shared_buffers) + (postgres or []), database_url),
    )  # fmt: skip
    _perform(lambda directory: run(options, directory), json_file, keep)


@app.command("message")
def bench_message(
    seconds: Annotated[float, typer.Option(min=1, max=600, help="Of each round.")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds of each server, in turn; the median counts.")] = 3,
    rate: Annotated[float, typer.Option(min=300, max=6_000, help="Messages a second to each, open loop.")] = 3_000.0,
    pin: Pins = None,
    json_file: JsonFile = None,
    keep: Keep = None,
) -> None:
    """CPU of a batch of 10 received, decoded, packed and acked, beside uvicorn's and picows' bare echo."""
    from loadtests.bench.message import run

    pins = _pins(pin)
    _perform(
        lambda directory: run(directory, seconds=seconds, rounds=rounds, per_second=rate, pins=pins), json_file, keep
    )


@app.command("fanout")
def bench_fanout(
    receivers: Annotated[int, typer.Option(min=1, max=10_000, help="Sockets that read.")] = 500,
    topics: Annotated[int, typer.Option(min=1, max=400, help="Containers that each watches.")] = 50,
    stalled_share: Annotated[
        float, typer.Option(min=0.001, max=1, help="Sockets beside them that stop reading, as a share of them.")
    ] = 0.1,
    pairs: Annotated[int, typer.Option(min=2, max=100, help="Pairs of halves, without and with the stalled ones.")] = 5,
    seconds: Annotated[float, typer.Option(min=1, max=3_600, help="Of each half.")] = 20.0,
    warm_up: Annotated[float, typer.Option(min=1, max=600, help="Seconds of each half before it is measured.")] = 10.0,
    agents: Annotated[int, typer.Option(min=1, max=30_000, help="Simulated agents.")] = 100,
    containers: Annotated[int, typer.Option(min=1, max=1_000, help="Containers of each, a sample a second.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every value.")] = 1,
    database_url: DatabaseUrl = None,
    postgres: PostgresSettings = None,
    server: ServerVariables = None,
    pin: Pins = None,
    json_file: JsonFile = None,
    keep: Keep = None,
) -> None:
    """Live latency of subscribers, beside the same with a tenth more of them that stop reading."""
    from loadtests.bench.fanout import Options, run

    _at_most("--topics", topics, agents * containers, "--agents x --containers")
    options = Options(
        receivers=receivers, topics=topics, stalled_share=stalled_share, pairs=pairs, seconds=seconds,
        warm_up_seconds=warm_up, agents=agents, containers=containers, seed=seed, database_url=database_url,
        postgres=_postgres(postgres, database_url), server=_server(server), pins=_pins(pin),
    )  # fmt: skip
    _perform(lambda directory: run(options, directory), json_file, keep)


@app.command("actions")
def bench_actions(
    rate: Annotated[float, typer.Option(min=0.1, max=1_000, help="Attempts a second.")] = 100.0,
    agents: Annotated[int, typer.Option(min=1, max=30_000, help="Simulated agents.")] = 5_000,
    containers: Annotated[int, typer.Option(min=1, max=1_000, help="Containers of each, a sample a second.")] = 10,
    log_lines: Annotated[int, typer.Option(min=0, max=100, help="Log lines of each agent and second.")] = 1,
    subscribers: Annotated[int, typer.Option(min=1, max=10_000, help="Live sockets that watch.")] = 200,
    topics: Annotated[int, typer.Option(min=1, max=400, help="Containers that each watches.")] = 10,
    seconds: Annotated[float, typer.Option(min=1, max=3_600, help="How long actions are attempted.")] = 60.0,
    ramp: Annotated[float, typer.Option(min=1, max=600, help="Seconds over which the agents connect.")] = 20.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every value.")] = 1,
    database_url: DatabaseUrl = None,
    postgres: PostgresSettings = None,
    server: ServerVariables = None,
    pin: Pins = None,
    json_file: JsonFile = None,
    keep: Keep = None,
) -> None:
    """Round trips of actions at a fixed rate, and live latency, while a fleet streams; the audit log checked."""
    from loadtests.bench.actions import Options, run

    options = Options(
        rate=rate, agents=agents, containers=containers, log_lines=log_lines, subscribers=subscribers, topics=topics,
        seconds=seconds, ramp_seconds=ramp, seed=seed, database_url=database_url,
        postgres=_postgres(postgres, database_url), server=_server(server), pins=_pins(pin),
    )  # fmt: skip
    _at_most("--topics", topics, options.watched, "the containers of its hosts that are not acted on")
    _perform(lambda directory: run(options, directory), json_file, keep)


@app.command("simulator")
def bench_simulator(
    agents: Annotated[int, typer.Option(min=2, max=20_000, help="Simulated agents.")] = 10_000,
    containers: Annotated[int, typer.Option(min=1, max=1_000, help="Containers of each, a sample a second.")] = 10,
    log_lines: Annotated[int, typer.Option(min=0, max=100, help="Log lines of each agent and second.")] = 0,
    seconds: Annotated[float, typer.Option(min=2, max=3_600, help="Of each measurement.")] = 15.0,
    connects: Annotated[
        float, typer.Option(min=1, max=5_000, help="Connections a second while a load comes up.")
    ] = 500.0,
    websockets_agents: Annotated[
        int | None, typer.Option(min=1, max=20_000, help="Agents over `websockets`. Default: a fifth.")
    ] = None,
    users: Annotated[
        int, typer.Option(min=1, max=20_000, help="Users of Locust and of Artillery, a message a second each.")
    ] = 400,
    artillery: Annotated[Path | None, typer.Option(help="Artillery's command. Default: the one on PATH.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every value.")] = 1,
    pin: Pins = None,
    json_file: JsonFile = None,
    keep: Keep = None,
) -> None:
    """CPU and memory of the fleet itself against a bare sink, beside `websockets`, Locust and Artillery."""
    from loadtests.bench.simulator import Options, run

    if artillery is not None and not artillery.is_file():
        typer.echo(f"--artillery {artillery}: expected Artillery's command", err=True)
        raise typer.Exit(_USAGE)
    options = Options(
        agents=agents, containers=containers, log_lines=log_lines, seconds=seconds, connects_per_second=connects,
        websockets_agents=max(1, agents // 5) if websockets_agents is None else websockets_agents, users=users, seed=seed,
        artillery=None if artillery is None else str(artillery), pins=_pins(pin),
    )  # fmt: skip
    _perform(lambda directory: run(options, directory), json_file, keep)


def _strategies(chosen: list[str] | None) -> tuple[str, ...]:
    from server.db.storage.strategies import STRATEGIES

    for name in chosen or ():
        if name not in STRATEGIES:
            _wrong(f"--strategy {name}: expected one of {', '.join(STRATEGIES)}")
    return tuple(chosen or STRATEGIES)


def _memory(shared_buffers: str | None) -> list[str]:
    return [] if shared_buffers is None else [f"shared_buffers={shared_buffers}"]


def _at_most(option: str, value: int, most: int, why: str) -> None:
    if value > most:
        _wrong(f"{option} {value}: expected at most {most}, which is {why}")


def _wrong(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(_USAGE)


def _pins(texts: list[str] | None) -> dict[str, tuple[int, ...]]:
    from loadtests.bench.usage import parse_pins

    with _usage():
        return parse_pins(texts or [])


def _postgres(texts: list[str] | None, database_url: str | None) -> dict[str, str]:
    from loadtests.bench.tuning import parse_postgres

    with _usage():
        return parse_postgres(texts or [], database_url)


def _server(texts: list[str] | None) -> dict[str, str]:
    from loadtests.bench.tuning import parse_server

    with _usage():
        return parse_server(texts or [])


@contextmanager
def _usage() -> Iterator[None]:
    """A mistake in an option: told, exit 2."""
    try:
        yield
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_USAGE) from None


def _perform(work: "Callable[[Path], Coroutine[Any, Any, Report]]", json_file: Path | None, keep: Path | None) -> None:
    from loadtests.audit_check import AuditCheckError
    from loadtests.bench.figures import show, write
    from loadtests.children import ChildError
    from loadtests.stage import StageError
    from server.errors import StartupError

    with tempfile.TemporaryDirectory(prefix="seatrial-bench-") as temporary:
        directory = Path(temporary)
        if keep is not None:
            try:
                keep.mkdir(parents=True)
            except OSError as error:
                typer.echo(f"--keep {keep}: {error.strerror or error}: expected a new folder", err=True)
                raise typer.Exit(_USAGE) from None
            directory = keep
        try:
            report = asyncio.run(work(directory))
        except (StageError, ChildError, AuditCheckError, StartupError) as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(_ENVIRONMENT) from None
        show(report)
        if json_file is not None:
            write(report, json_file)
    if report.failures:
        raise typer.Exit(_WORTHLESS)
