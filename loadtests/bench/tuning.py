"""What a caller of a benchmark changes of Postgres and of the server: `name=value` texts, checked before anything starts."""

from collections.abc import Iterable

from server.db.embedded import EmbeddedPostgresError
from server.db.postgres_settings import checked_settings
from simulator.scenario_format import environment


def parse_postgres(texts: Iterable[str], database_url: str | None) -> dict[str, str]:
    """Settings of the private Postgres, as `shared_buffers=4GB`.

    Raises:
        ValueError: not of that form, one that is not ours to set, or there is no private Postgres to have them.
    """
    settings: dict[str, str] = {}
    for text in texts:
        if database_url is not None:
            raise ValueError(f"--postgres {text}: expected no --database-url, whose server has settings of its own")
        name, value = _pair("--postgres", text, "shared_buffers=4GB")
        try:
            settings |= checked_settings({name: value})
        except EmbeddedPostgresError as error:
            raise ValueError(f"--postgres {text}: {error}") from None
    return settings


def parse_server(texts: Iterable[str]) -> dict[str, str]:
    """Variables of the server, as `SEATRIAL_LANES=4`; what a scenario may not set is refused here too.

    Raises:
        ValueError: not of that form, or not to be set.
    """
    variables: dict[str, str] = {}
    for text in texts:
        name, value = _pair("--server", text, "SEATRIAL_LANES=4")
        try:
            variables[name] = environment(name, value)
        except ValueError as error:
            raise ValueError(f"--server {text}: {error}") from None
    return variables


def _pair(option: str, text: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{option} {text}: expected a name and a value as in {example}")
    return name, value
