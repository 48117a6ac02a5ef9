"""The faults of a scenario: what each is, and which cannot go together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from simulator.scenario_format import FAULTS, seconds


class Fault(Struct, frozen=True, kw_only=True):
    """Something that breaks on purpose."""

    at_seconds: float
    """After the start of the load."""
    kind: str
    for_seconds: float = 0.0
    """How long it lasts; 0: its kind knows no duration."""
    fraction: float = 0.0
    """Share of the connections; 0: its kind knows none."""

    @property
    def part(self) -> str:
        """What breaks: `server`, `postgres` or `network`."""
        return FAULTS[self.kind].part

    def describe(self) -> str:
        """For people: `postgres_stop at 15s for 20s`."""
        words = [self.kind]
        if self.fraction:
            words.append(f"of {self.fraction:.4g}")
        words.append(f"at {seconds(self.at_seconds)}")
        if self.for_seconds:
            words.append(f"for {seconds(self.for_seconds)}")
        return " ".join(words)


def conflicts(
    faults: Sequence[Mapping[str, Any]], duration: float | None, *, restart: bool
) -> Iterator[tuple[str, str]]:
    """What no single key of the faults shows.

    Args:
        faults: as they were read; a key with a mistake of its own is left out.
        duration: of the scenario in seconds; None: it has a mistake.
        restart: whether the server is started again.

    Yields:
        The key at fault, and what was expected.
    """
    for i, fault in enumerate(faults):
        key, kind = f"fault[{i}]", FAULTS.get(fault.get("kind", ""))
        if duration is not None and fault.get("at", 0) >= duration:
            yield f"{key}.at", f"must lie inside the duration of {seconds(duration)}"
        elif duration is not None and _ends(fault) >= duration:
            yield f"{key}.for", f"must end inside the duration of {seconds(duration)}"
        if kind is None:
            continue
        for name in [name for name in fault if name not in {"at", "kind", *kind.keys}]:
            yield f"{key}.{name}", f"has no effect with {fault['kind']}"
        if kind.part == "server" and not restart:
            yield f"{key}.kind", "needs server.restart = true, or the run ends there"
    yield from _overlaps(faults)


def _overlaps(faults: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What is broken already cannot break."""
    whole = [(i, fault) for i, fault in enumerate(faults) if "at" in fault and "kind" in fault]
    last: dict[str, Mapping[str, Any]] = {}
    for i, fault in sorted(whole, key=lambda item: begins(item[1])):
        part = FAULTS[fault["kind"]].part
        before = last.get(part)
        if before is not None and fault["at"] <= _ends(before):
            yield f"fault[{i}].at", f"must lie after the end of {before['kind']} at {seconds(_ends(before))}"
        last[part] = fault


def begins(fault: Mapping[str, Any]) -> float:
    """When a fault begins, in seconds."""
    return float(fault["at"])


def _ends(fault: Mapping[str, Any]) -> float:
    """When a fault is over; only a kind that lasts has a `for`."""
    return float(fault.get("at", 0)) + float(fault.get("for", 0))
