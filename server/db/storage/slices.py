"""A slice of time of a table, as a query."""

from collections.abc import Sequence
from typing import Any

from server.db.storage.times import to_datetime


def narrowed(query: str, since: int, until: int, container_ids: Sequence[int] | None) -> tuple[str, tuple[Any, ...]]:
    """A query whose $1 and $2 are times, with its values; narrowed to some containers unless `container_ids` is None.

    Args:
        query: that ends in its condition, and has a column `container_id`.
        since: first moment, Unix microseconds.
        until: first moment after.
        container_ids: of whose rows.
    """
    times = to_datetime(since), to_datetime(until)
    if container_ids is None:
        return query, times
    return f"{query} AND container_id = ANY($3::bigint[])", (*times, list(container_ids))
