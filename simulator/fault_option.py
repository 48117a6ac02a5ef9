"""The option `--fault` of `seatrial simulate`: `disconnect:at=10s,fraction=0.1`."""

from collections.abc import Sequence
from typing import Any

from simulator.fault_kinds import FAULTS, FLEET_FAULTS
from simulator.scenario_faults import Fault, conflicts, defaults_of, fault_of
from simulator.scenario_format import FAULT_KEYS, Problem, ScenarioError, unknown

_SOURCE = "--fault"


def parse_faults(texts: Sequence[str], duration_seconds: float | None, agents: int) -> tuple[Fault, ...]:
    """The faults of a command, in the order in which they happen.

    Args:
        texts: of the options.
        duration_seconds: of the fleet; None: until it is stopped.
        agents: of the fleet.

    Raises:
        ScenarioError: with every mistake.
    """
    problems: list[Problem] = []
    faults = [_read(text, problems) for text in texts]
    for key, expected in conflicts(faults, duration_seconds, agents=agents):
        place, _, name = key.partition(".")
        i = int(place.removeprefix("fault[").removesuffix("]"))
        problems.append(Problem(f"{_SOURCE} {texts[i]}", name, ..., expected))
    if problems:
        raise ScenarioError(*problems)
    return tuple(sorted(map(fault_of, faults), key=lambda fault: fault.at_seconds))


def _read(text: str, problems: list[Problem]) -> dict[str, Any]:
    """The values of one option; its mistakes join `problems`."""
    source = f"{_SOURCE} {text}"
    kind, _, rest = text.partition(":")
    if kind not in FAULTS:
        problems.append(Problem(source, "kind", kind, unknown(kind, FLEET_FAULTS, "fault")))
        return {}
    if not FAULTS[kind].of_fleet:
        problems.append(Problem(source, "kind", kind, "only `seatrial run` can do this; it owns what breaks"))
        return {}
    values: dict[str, Any] = {"kind": kind}
    for part in rest.split(",") if rest else ():
        name, equals, value = part.partition("=")
        if not equals:
            problems.append(Problem(source, "", part, "expected key=value"))
        elif name not in FAULT_KEYS or name == "kind":
            takes = ("at", *FAULTS[kind].keys)
            problems.append(Problem(source, name, value, unknown(name, takes, "key")))
        elif name in values:
            problems.append(Problem(source, name, value, "given twice"))
        else:
            try:
                values[name] = FAULT_KEYS[name].read(_plain(value))
            except ValueError as wrong:
                problems.append(Problem(source, name, value, str(wrong)))
                return {}
    for name, default in tuple(defaults_of(values)):
        if default is ...:
            meaning = FAULT_KEYS[name].meaning
            problems.append(Problem(source, name, ..., f"missing; {meaning[0].lower()}{meaning[1:]}"))
        else:
            values[name] = FAULT_KEYS[name].read(default)
    return values


def _plain(text: str) -> object:
    """A value as a file would hold it: a number where it is one."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
