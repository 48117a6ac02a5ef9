"""`seatrial run`, `seatrial verify` and `seatrial demo`."""

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from loadtests.findings import Findings

_USAGE, _ENVIRONMENT, _CORRECTNESS = 2, 3, 11


def run(
    scenario: Annotated[Path, typer.Argument(help="A scenario file: scenarios/smoke.toml.")],
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key of the file: --set fleet.agents=500.")
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="Run on this Postgres server, in a database made for the run; with --target: its database."
            " Default: a private one."
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where the results go.")] = Path("runs"),
    locust_processes: Annotated[
        int | None, typer.Option(help="Processes of Locust that share the users: ui.processes.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Load this server, which runs already: https://host[:port]. See docs/target.md.")
    ] = None,
    signing_key: Annotated[
        Path | None,
        typer.Option(
            envvar="SEATRIAL_JWT_SIGNING_KEY",
            help="With --target: PEM file of a private key of which it has the public half. Default: SEATRIAL_JWT_SECRET.",
        ),
    ] = None,
    kid: Annotated[
        str | None, typer.Option(envvar="SEATRIAL_JWT_SIGNING_KID", help="With --target: kid of the signing key.")
    ] = None,
    metrics_url: Annotated[
        str | None, typer.Option(help="With --target: where its /metrics and /readyz are, if not there.")
    ] = None,
    i_own_this: Annotated[
        bool, typer.Option("--i-own-this", help="With --target: load it though it does not say that it accepts that.")
    ] = False,
) -> None:
    """Run a scenario and judge it: start Postgres, server, fleet and browsers, stop them, verify every row.

    Exit code: 0 passed, 10 a threshold failed, 11 data was lost, altered or invented, 12 the run is invalid, 2 wrong
    usage or scenario, 3 the environment could not be set up, 130 interrupted.
    """
    from loadtests.consent import NoConsentError
    from loadtests.faults import check_breakable
    from loadtests.outputs import draw_report, write_outputs
    from loadtests.result_file import create_run_directory
    from loadtests.run import ChildError, StageError
    from loadtests.run import run as perform
    from loadtests.server_settings import validate_settings
    from loadtests.summary import show
    from loadtests.target import reach, target_of
    from loadtests.target_limits import check_targetable
    from loadtests.thresholds import validate_thresholds
    from simulator.errors import PlanError
    from simulator.scenario import ScenarioError, load

    overrides = {}
    for item in setting or []:
        key, equals, value = item.partition("=")
        if not equals:
            _fail(_USAGE, f"--set {item}: expected key=value")
        overrides[key] = value
    if locust_processes is not None:
        overrides["ui.processes"] = str(locust_processes)
    try:
        loaded = load(scenario, overrides)
        validate_thresholds(loaded)
        validate_settings(loaded, database_url, target=target is not None)
        deployed = None
        if target is None:
            check_breakable(loaded, database_url)
            if metrics_url is not None or i_own_this:
                _fail(_USAGE, f"{'--metrics-url' if metrics_url else '--i-own-this'}: expected --target beside it")
        else:
            if database_url is None:
                _fail(_USAGE, "--target: expected --database-url of its database: without it no row can be verified")
            check_targetable(loaded)
            file = {"SEATRIAL_JWT_SIGNING_KEY": str(signing_key.resolve())} if signing_key else {}
            environ = dict(os.environ) | file | ({"SEATRIAL_JWT_SIGNING_KID": kid} if kid else {})
            deployed = target_of(target, database_url=database_url, metrics_url=metrics_url, environ=environ)
            deployed = asyncio.run(reach(deployed, loaded, owned=i_own_this))
    except (ScenarioError, PlanError, NoConsentError) as error:
        _fail(_USAGE, str(error))
    except StageError as error:
        _fail(_ENVIRONMENT, str(error))
    try:
        directory = create_run_directory(runs, loaded.name)
    except OSError as error:
        _fail(_ENVIRONMENT, f"--runs {runs}: {error.strerror or error}")
    try:
        result = asyncio.run(perform(loaded, directory, database_url, deployed))
    except (StageError, ChildError) as error:
        _fail(_ENVIRONMENT, str(error))
    try:
        path = write_outputs(directory, result)
    except OSError as error:
        _fail(_ENVIRONMENT, f"{directory}: {error.strerror or error}")
    trouble = draw_report(directory)
    show(result, path)
    if trouble:
        sys.stderr.write(f"{trouble}\n")
    raise typer.Exit(result.exit_code)


def report(
    result: Annotated[Path, typer.Argument(help="A result.json, or the directory of a run: runs/latest.")],
    output: Annotated[Path | None, typer.Option(help="Directory for the files. Default: beside the result.")] = None,
) -> None:
    """Write the report of a run: report.html, which opens without a network, and its plots as PNG in plots/.

    Exit code: 0 written, 2 the result cannot be read, 3 the report cannot be written.
    """
    from loadtests.report.page import write_report
    from loadtests.result_file import ResultError, read_result

    try:
        found = read_result(result)
    except ResultError as error:
        _fail(_USAGE, str(error))
    directory = output or (result if result.is_dir() else result.parent)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path = write_report(found, directory)
    except OSError as error:
        _fail(_ENVIRONMENT, f"{directory}: {error.strerror or error}")
    typer.echo(path)


def verify(
    ledger: Annotated[list[Path], typer.Option(help="Ledger of a fleet's process; give each of them.")],
    database_url: Annotated[str, typer.Option(envvar="SEATRIAL_DATABASE_URL", help="Where the rows are.")],
    storage: Annotated[str, typer.Option(envvar="SEATRIAL_STORAGE", help="The strategy that keeps them.")] = "plain",
) -> None:
    """Compare what a fleet sent with what is stored, row by row, over the whole of its ledgers.

    Retention must not have removed anything of it: set SEATRIAL_RETENTION_SECONDS longer than the run. Exit code: 0
    clean, 11 rows are missing, foreign, altered or could not be verified, 3 the ledger or the database cannot be read.
    """
    for path in ledger:
        if not path.is_file():
            _fail(_USAGE, f"--ledger {path}: expected a file")
    if len({path.resolve() for path in ledger}) < len(ledger):
        _fail(_USAGE, f"--ledger {' '.join(map(str, ledger))}: expected each of them once")
    findings = _verified(ledger, database_url, storage)
    for example in findings.examples:
        typer.echo(f"{example.kind}: {example.table}: {example.row}")
    counts = ", ".join(f"{findings.counts[kind]} {kind}" for kind in ("missing", "foreign", "altered"))
    typer.echo(f"{findings.verified} of {findings.acked} acked rows verified, {findings.stored} rows read: {counts}")
    if findings.unverified:
        _fail(_CORRECTNESS, f"{findings.unverified} stored rows unverified: a ledger fell silent before they were read")
    if not findings.acked:
        _fail(_CORRECTNESS, "nothing was acknowledged, so nothing is proven")
    raise typer.Exit(0 if findings.clean else _CORRECTNESS)


def demo(
    folder: Annotated[Path, typer.Option(help="Keeps the database, the logs and the tokens.")] = Path("runs/demo"),
    agents: Annotated[int, typer.Option(help="Simulated agents, of five containers each.")] = 200,
    port: Annotated[int, typer.Option(help="Port of the server; 0 takes a free one.")] = 8000,
) -> None:
    """Run a private Postgres, the server and a small fleet, and print what to try on them, until Ctrl-C.

    Exit code: 130 ended by Ctrl-C, 0 by SIGTERM, 2 wrong usage, 3 a part did not start or ended.
    """
    from loadtests import demo as work
    from loadtests.children import ChildError

    try:
        wanted = work.Demo(folder=folder, agents=agents, port=port)
    except ValueError as error:
        _fail(_USAGE, str(error))
    try:
        code = asyncio.run(work.run(wanted, work.report))
    except ChildError as error:
        _fail(_ENVIRONMENT, str(error))
    except OSError as error:
        _fail(_ENVIRONMENT, f"--folder {folder}: {error.strerror or error}")
    raise typer.Exit(code)


def _verified(ledgers: list[Path], database_url: str, strategy: str) -> "Findings":
    import asyncpg

    from loadtests.verify import verify_all
    from server.db.storage.strategies import storage
    from simulator.ledger import LedgerError

    async def work() -> "Findings":
        connection = await asyncpg.connect(database_url, timeout=10, command_timeout=600)
        try:
            return await verify_all(ledgers, storage(strategy), connection)
        finally:
            connection.terminate()

    try:
        return asyncio.run(work())
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError, LedgerError) as error:
        _fail(_ENVIRONMENT, f"{type(error).__name__}: {error}")


def _fail(code: int, message: str) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise typer.Exit(code)
