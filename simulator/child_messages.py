"""What a fleet's processes say to each other, a JSON object a line.

The parent speaks on the child's standard input, the child on its standard output.
"""

from typing import Any

from msgspec import Struct

from simulator.plan import Plan
from simulator.status import Status


class Job(Struct, frozen=True, kw_only=True):
    """First line to a child."""

    plan: Plan
    """Of its shard. It holds the secret, which no process list shows on this way."""
    ledger: str | None


class Go(Struct, frozen=True, kw_only=True):
    """Second line to a child: begin. The end of its input: the parent is gone, so stop in order."""

    start_us: int
    """Of the timeline that all share, Unix microseconds."""


class Ready(Struct, frozen=True, tag="ready"):
    """From a child: all is built."""


class Second(Struct, frozen=True, kw_only=True, tag="second"):
    """From a child, about once a second."""

    status: Status


class Done(Struct, frozen=True, kw_only=True, tag="done"):
    """Last line of a child."""

    report: dict[str, Any]


Said = Ready | Second | Done
"""Any line of a child."""
