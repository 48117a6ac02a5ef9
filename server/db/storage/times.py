"""Unix microseconds and what asyncpg makes of timestamptz, exact."""

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_datetime(micros: int) -> datetime:
    """Unix microseconds as asyncpg wants them, exact."""
    return EPOCH + timedelta(microseconds=micros)


def to_micros(moment: datetime) -> int:
    """Unix microseconds of a timestamptz, exact."""
    return (moment - EPOCH) // timedelta(microseconds=1)
