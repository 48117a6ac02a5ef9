"""The settings a private Postgres runs with: our defaults, the caller's, and the few that nobody may change."""

import re
from collections.abc import Mapping

from server.db.postgres_binaries import Binaries, EmbeddedPostgresError

DEFAULTS: Mapping[str, str] = {
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    # Hosts are updated each few seconds: a minute of 10,000 of them is 200,000 dead rows, and a burst to clear them away.
    "autovacuum_naptime": "15s",
    # The wheel has no JIT compiler: plans must not differ from one installation to the next.
    "jit": "off",
    "track_io_timing": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%a ",
    "cluster_name": "seatrial",
}
"""What a development machine starts with; the caller's settings come before them."""

DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
"""Always on: an acknowledgement says that the rows outlive a power cut."""

_ON = {"on", "true", "yes", "1"}
_OWNED = {
    "config_file", "data_directory", "external_pid_file", "hba_file", "ident_file", "listen_addresses",
    "logging_collector", "port", "unix_socket_directories",
}  # fmt: skip
_NAME = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?")


def checked_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """The caller's settings with their names in lower case.

    Raises:
        EmbeddedPostgresError: a name is malformed or not the caller's to set, or durability would be given up.
    """
    checked: dict[str, str] = {}
    for given, value in settings.items():
        name = given.lower()
        if not _NAME.fullmatch(name) or "\0" in value:
            raise EmbeddedPostgresError(
                f"The Postgres setting {given!r} = {value!r} is malformed.",
                fix="name it as in postgresql.conf, for example shared_buffers.",
            )
        if name in _OWNED or name.startswith("seatrial."):
            raise EmbeddedPostgresError(
                f"The Postgres setting {name!r} = {value!r} cannot be set: the embedded Postgres decides it itself.",
                fix="leave it out; the port and the log file are arguments of EmbeddedPostgres.",
            )
        if name in DURABLE and value.strip().lower() not in _ON:
            raise EmbeddedPostgresError(
                f"The Postgres setting {name!r} = {value!r} is refused, expected 'on': what is acked is on disk.",
                fix="leave it out.",
            )
        checked[name] = value
    return checked


def effective_settings(checked: Mapping[str, str], binaries: Binaries) -> dict[str, str]:
    """Everything that goes on the command line, the port and addresses apart."""
    settings = {**DEFAULTS, **checked, **dict.fromkeys(DURABLE, "on")}
    if "shared_preload_libraries" not in settings and binaries.has_library("pg_stat_statements"):
        settings["shared_preload_libraries"] = "pg_stat_statements"
    return settings
