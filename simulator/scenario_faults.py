"""The faults of a scenario: what each is, and which cannot go together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from simulator.fault_kinds import FAULTS, FRAMES
from simulator.scenario_format import FAULT_KEYS, seconds

_SHOWN = {
    "skew_seconds": "skew",
    "latency_seconds": "latency",
    "bytes_per_second": "bytes_per_second",
    "frames": "frames",
}


class Fault(Struct, frozen=True, kw_only=True):
    """Something that breaks on purpose. A field that its kind does not know is 0."""

    at_seconds: float
    """After the start of the load."""
    kind: str
    for_seconds: float = 0.0
    """How long it lasts."""
    fraction: float = 0.0
    """Share of the connections, or of the agents."""
    agents: int = 0
    """How many agents, if no share."""
    skew_seconds: float = 0.0
    """By how much a clock is ahead."""
    bytes_per_second: int = 0
    latency_seconds: float = 0.0
    frames: int = 0
    """Of each agent."""

    @property
    def part(self) -> str:
        """What breaks, see `FaultKind`."""
        return FAULTS[self.kind].part

    @property
    def late_seconds(self) -> float:
        """How much later than `for_seconds` after its beginning it may be over."""
        return FAULTS[self.kind].late_seconds

    @property
    def of_fleet(self) -> bool:
        """Whether the fleet does it, and not the runner."""
        return FAULTS[self.kind].of_fleet

    def describe(self) -> str:
        """For people: `postgres_stop at 15s for 20s`."""
        words = [self.kind]
        if self.fraction:
            words.append(f"of {self.fraction:.4g}")
        if self.agents:
            words.append(f"of {self.agents} agents")
        words.append(f"at {seconds(self.at_seconds)}")
        if self.for_seconds:
            words.append(f"for {seconds(self.for_seconds)}")
        words += [f"{key} {value}" for key, value in self._others()]
        return " ".join(words)

    def option(self) -> str:
        """As the option `--fault` of `seatrial simulate` takes it."""
        parts = [f"at={_exactly(self.at_seconds)}"]
        if self.for_seconds:
            parts.append(f"for={_exactly(self.for_seconds)}")
        if self.fraction:
            parts.append(f"fraction={self.fraction!r}")
        if self.agents:
            parts.append(f"agents={self.agents}")
        parts += [f"{key}={value}" for key, value in self._others(_exactly)]
        return f"{self.kind}:{','.join(parts)}"

    def _others(self, told: Callable[[float], str] = seconds) -> Iterator[tuple[str, str]]:
        for field, key in _SHOWN.items():
            value = getattr(self, field)
            if value:
                sign = "-" if value < 0 else ""
                yield key, f"{sign}{told(abs(value))}" if field.endswith("_seconds") else str(value)


def _exactly(value: float) -> str:
    """A duration to the microsecond."""
    return f"{value:.6f}".rstrip("0").rstrip(".") + "s"


def fault_of(values: Mapping[str, Any]) -> Fault:
    """A fault from the values of its keys, all read."""
    fields = {name: f"{name}_seconds" for name in ("at", "for", "skew", "latency")}
    return Fault(**{fields.get(name, name): value for name, value in values.items()})


def defaults_of(values: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """The keys that a fault of these values takes and does not have, with their defaults; `...`: it is required."""
    kind = FAULTS.get(values.get("kind", ""))
    for name in ("at", "kind", *(kind.keys if kind else ())):
        default = FAULT_KEYS[name].default
        if kind is not None:
            default = kind.defaults.get(name, default)
        chosen_otherwise = name == "fraction" and "agents" in values
        if name not in values and default is not None and not chosen_otherwise:
            yield name, default


def conflicts(
    faults: Sequence[Mapping[str, Any]],
    duration: float | None,
    *,
    restart: bool = True,
    agents: int | None = None,
    retention: float | None = None,
) -> Iterator[tuple[str, str]]:
    """What no single key of the faults shows.

    Args:
        faults: as they were read; a key with a mistake of its own is left out.
        duration: of the scenario in seconds; None: it has a mistake, or there is no end.
        restart: whether the server is started again.
        agents: of the fleet; None: that has a mistake.
        retention: of the server in seconds; None: not known.

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
        if kind.of_fleet:
            yield from _of_fleet(key, fault, agents, retention)
    yield from _overlaps(faults)


def _of_fleet(
    key: str, fault: Mapping[str, Any], agents: int | None, retention: float | None
) -> Iterator[tuple[str, str]]:
    if "agents" in fault and "fraction" in fault:
        yield f"{key}.agents", "expected either agents or fraction"
    elif agents is not None and fault.get("agents", 0) > agents:
        yield f"{key}.agents", f"expected at most the fleet's {agents}"
    behind = -fault.get("skew", 0.0)
    if retention is not None and retention / 4 < behind < retention:
        # Rows are verified before they are pruned: those that come long after their own time would come too late for it.
        yield (
            f"{key}.skew",
            f"expected at most a quarter of storage.retention ({seconds(retention)}) behind, or all of it",
        )
    if fault.get("kind") == "token_expiry" and not float(fault.get("for", 1)).is_integer():
        yield f"{key}.for", "expected whole seconds, as tokens have them"


def _overlaps(faults: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What is broken already cannot break."""
    whole = [(i, fault) for i, fault in enumerate(faults) if "at" in fault and "kind" in fault]
    last: dict[str, Mapping[str, Any]] = {}
    for i, fault in sorted(whole, key=lambda item: begins(item[1])):
        part = FAULTS[fault["kind"]].part
        if part == FRAMES:
            continue
        before = last.get(part)
        if before is not None and fault["at"] <= _ends(before):
            yield f"fault[{i}].at", f"must lie after the end of {before['kind']} at {seconds(_ends(before))}"
        last[part] = fault


def begins(fault: Mapping[str, Any]) -> float:
    """When a fault begins, in seconds."""
    return float(fault["at"])


def _ends(fault: Mapping[str, Any]) -> float:
    """When a fault is over at the latest; only a kind that lasts has a `for`."""
    kind = FAULTS.get(fault.get("kind", ""))
    return float(fault.get("at", 0)) + float(fault.get("for", 0)) + (kind.late_seconds if kind else 0.0)
