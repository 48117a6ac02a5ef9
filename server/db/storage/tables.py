"""What a strategy asks of the database before it works on it: that the tables are its own, and that it may."""

from collections.abc import Mapping, Sequence

import asyncpg

from server.db.storage.base import CopyTarget
from server.errors import StartupError

KINDS = {"r": "a table", "p": "a partitioned table", "v": "a view", "m": "a materialized view", "f": "a foreign table"}
"""What Postgres calls them in pg_class.relkind."""

_SHAPE = """
    SELECT c.relkind::text AS kind, pg_get_userbyid(c.relowner) AS owner, pg_has_role(c.relowner, 'USAGE') AS is_ours,
           current_user AS role, coalesce(pg_get_partkeydef(c.oid), '') AS partitioning,
           coalesce(c.reloptions, '{}') AS options,
           ARRAY(SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute
                 WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum) AS columns,
           ARRAY(SELECT a.attname::text FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k (attnum, place)
                 JOIN pg_attribute a USING (attnum)
                 WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid ORDER BY place) AS key
    FROM pg_class c WHERE c.oid = to_regclass($1)
"""


async def create_table(
    connection: asyncpg.Connection, target: CopyTarget, ddl: str, types: Sequence[str], partitioning: str = ""
) -> None:
    """Create a table unless it is there, and make sure that it is the one meant.

    Args:
        connection: to the database.
        target: its name, columns and key.
        ddl: the CREATE TABLE.
        types: of the columns, as Postgres names them.
        partitioning: as Postgres tells it, "RANGE (timestamp)" for example; empty: one table.

    Raises:
        StartupError: there is something else of that name, or it is another role's.
    """
    shape = await connection.fetchrow(_SHAPE, target.table)
    if shape is None:
        await connection.execute(f"{ddl} PARTITION BY {partitioning}" if partitioning else ddl)
        return
    expected = [f"{name} {type_}" for name, type_ in zip(target.columns, types, strict=True)]
    kind = "p" if partitioning else "r"
    for what, found, wanted in (
        ("is", KINDS.get(shape["kind"], shape["kind"]), KINDS[kind]),
        ("has the columns", ", ".join(shape["columns"]), ", ".join(expected)),
        ("has the primary key", ", ".join(shape["key"]) or "none", ", ".join(target.key)),
        ("is partitioned by", shape["partitioning"].replace('"', "") or "nothing", partitioning or "nothing"),
    ):
        if found != wanted:
            raise StartupError(
                f"storage: {target.table} {what} {found}: expected {wanted}. It is not ours, and was left as it is"
            )
    if not shape["is_ours"]:
        raise StartupError(
            f"storage: {target.table} belongs to role {shape['owner']!r}: expected {shape['role']!r}, or a role that it is"
            " a member of; only an owner may keep a table's ranges and settings"
        )


async def set_options(connection: asyncpg.Connection, table: str, options: Mapping[str, str]) -> None:
    """Give a table its storage parameters, if it has not got them: that takes a lock which a running VACUUM has."""
    shape = await connection.fetchrow(_SHAPE, table)
    if shape is not None and not {f"{name}={value}" for name, value in options.items()} <= set(shape["options"]):
        await connection.execute(f"ALTER TABLE {table} SET ({option_list(options)})")


def option_list(options: Mapping[str, str]) -> str:
    """Storage parameters as CREATE and ALTER TABLE take them."""
    return ", ".join(f"{name} = {value}" for name, value in options.items())


async def check_rights(connection: asyncpg.Connection) -> None:
    """Make sure that the role may do what the lanes and the strategies do.

    Raises:
        StartupError: it lacks a right; the sentence names it and the statement that grants it.
    """
    row = await connection.fetchrow(
        "SELECT current_user AS role, current_database() AS database, current_schema() AS schema,"
        " has_database_privilege(current_database(), 'TEMPORARY') AS temporary,"
        " coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS creating"
    )
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    role, database = row["role"], row["database"]
    if not row["creating"]:
        schema = row["schema"] or "public"
        raise StartupError(
            f"database_url: role {role!r} may create no tables in schema {schema!r}: expected a role that may."
            f' GRANT CREATE ON SCHEMA {schema} TO "{role}"'
        )
    if not row["temporary"]:
        raise StartupError(
            f"database_url: role {role!r} may create no temporary tables in database {database!r}, which the lanes need:"
            f' GRANT TEMPORARY ON DATABASE "{database}" TO "{role}"'
        )
