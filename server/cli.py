"""`seatrial serve`, `seatrial db`; `server.cli_access` has the rest."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

USAGE, ENVIRONMENT = 2, 3

db_app = typer.Typer(no_args_is_help=True, help="Look after the database.")

DatabaseUrl = Annotated[
    str | None,
    typer.Option("--database-url", envvar="SEATRIAL_DATABASE_URL", help="postgresql://user:password@host/db"),
]
Embedded = Annotated[
    Path | None,
    typer.Option("--embedded", help="Run a private Postgres in this folder instead; it ends with this process."),
]


def serve(
    context: typer.Context,
    database_url: DatabaseUrl = None,
    embedded: Embedded = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    retention_seconds: Annotated[float | None, typer.Option(help="Age at which rows are removed.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="json or console.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting: --set lanes=4. docs/settings.md has all.")
    ] = None,
) -> None:
    """Run the cloud server until SIGTERM (exit 0) or Ctrl-C (exit 130).

    Every setting can also come from a SEATRIAL_* variable; a flag beats it.
    """
    given: dict[str, Any] = {
        "database_url": database_url,
        "host": host,
        "port": port,
        "retention_seconds": retention_seconds,
        "log_level": log_level,
        "log_format": log_format,
    }
    for item in setting or []:
        key, equals, value = item.partition("=")
        if not equals:
            _fail(context, f"--set {item}: expected key=value")
        given[key.replace("-", "_")] = value
    flags = {key: value for key, value in given.items() if value is not None}
    if embedded is not None and database_url is not None and not os.environ.get("SEATRIAL_DATABASE_URL"):
        _fail(context, "--embedded and --database-url: expected only one of them")
    with _postgres(embedded) as dsn:
        if dsn:
            flags["database_url"] = dsn
        raise typer.Exit(_serve(context, flags))


def _serve(context: typer.Context, flags: dict[str, Any]) -> int:
    from pydantic import ValidationError

    from server import logs, serving
    from server.auth.keys import KeyFileError
    from server.settings import Settings

    known = Settings.model_fields
    for key in flags:
        if key not in known:
            from difflib import get_close_matches

            near = get_close_matches(key, known, 1)
            _fail(context, f"--set {key}: unknown setting" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        settings = Settings(**flags)
    except ValidationError as error:
        _fail(context, "\n".join(_setting_error(item) for item in error.errors(include_url=False)))
    logs.configure(settings.log_level, settings.log_format)
    try:
        return serving.run(settings)
    except KeyFileError as error:
        _fail(context, str(error))


def _setting_error(item: Any) -> str:
    name = str(item["loc"][0]) if item["loc"] else ""
    if not name:
        return str(item["msg"].removeprefix("Value error, "))
    variable = f"SEATRIAL_{name.upper()}"
    if item["type"] == "missing":
        return f"{name}: missing; set {variable} or --{name.replace('_', '-')}"
    hidden = name in {"database_url", "jwt_secret"}
    found = "" if hidden else f" = {item['input']!r}"
    return f"{name}{found} ({variable}): {item['msg'].removeprefix('Value error, ')}"


@db_app.command("migrate")
def db_migrate(
    database_url: Annotated[str, typer.Option(envvar="SEATRIAL_DATABASE_URL")],
    storage: Annotated[str, typer.Option(envvar="SEATRIAL_STORAGE", help="Strategy of samples and logs.")] = "plain",
) -> None:
    """Bring a database up to date. `serve` does it at its start; this is for doing it before."""

    async def work(connection: Any) -> None:
        from server.db import migrate
        from server.db.storage.strategies import storage as strategy

        await migrate.apply(connection, strategy(storage))
        typer.echo("\n".join(await migrate.applied(connection)))

    with_connection(database_url, work)


@db_app.command("rollback")
def db_rollback(database_url: Annotated[str, typer.Option(envvar="SEATRIAL_DATABASE_URL")]) -> None:
    """Undo the newest migration."""

    async def work(connection: Any) -> None:
        from server.db import migrate

        await migrate.rollback(connection)
        typer.echo("\n".join(await migrate.applied(connection)) or "no migrations left")

    with_connection(database_url, work)


@db_app.command("status")
def db_status(
    database_url: Annotated[str, typer.Option(envvar="SEATRIAL_DATABASE_URL")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Version, migrations, and how much the tables hold."""

    async def work(connection: Any) -> None:
        from dataclasses import asdict

        from server.db import migrate
        from server.db.storage.strategies import storage as strategy

        version = ".".join(str(part) for part in connection.get_server_version()[:2])
        applied = await migrate.applied(connection)
        tables = []
        if applied:
            name = await connection.fetchval("SELECT name FROM storage_strategy")
            tables = [asdict(size) for size in await strategy(name).sizes(connection)]
        if as_json:
            typer.echo(json.dumps({"version": version, "migrations": applied, "tables": tables}))
            return
        typer.echo(f"PostgreSQL {version}, {len(applied)} migrations applied")
        for size in tables:
            typer.echo(
                f"{size['table']}: {size['live_rows']} rows, {size['dead_rows']} dead,"
                f" {size['table_bytes'] / 2**20:.1f} MiB + {size['index_bytes'] / 2**20:.1f} MiB of indexes"
            )

    with_connection(database_url, work)


def with_connection(database_url: str, work: Callable[[Any], Awaitable[None]]) -> None:
    """Do some work with a connection to the database; exit 3 if that cannot be."""
    import asyncpg

    from server.errors import SeatrialError

    async def run() -> None:
        connection = await asyncpg.connect(database_url, timeout=10)
        try:
            await work(connection)
        finally:
            await connection.close(timeout=5)

    try:
        asyncio.run(run())
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, SeatrialError, ValueError) as error:
        typer.echo(f"database: {type(error).__name__}: {error}", err=True)
        raise typer.Exit(ENVIRONMENT) from None


@contextmanager
def _postgres(folder: Path | None) -> Iterator[str | None]:
    """A private Postgres for as long as this process lives, or none."""
    if folder is None:
        yield None
        return
    from server.db.embedded import EmbeddedPostgres, EmbeddedPostgresError

    try:
        postgres = EmbeddedPostgres(folder)
        postgres.start()
    except EmbeddedPostgresError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(ENVIRONMENT) from None
    try:
        yield postgres.dsn
    finally:
        postgres.stop()


def _fail(context: typer.Context, message: str) -> NoReturn:
    typer.echo(f"{context.command_path}: {message}", err=True)
    sys.exit(USAGE)
