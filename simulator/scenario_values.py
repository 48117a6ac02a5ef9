"""The kinds of value that a scenario's keys take: how each is read, told to people, and written as JSON Schema."""

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from math import isfinite, nan
from typing import Any, Protocol

from simulator.fault_kinds import FAULTS
from simulator.profiles import MAX_WEIGHT, PROFILES, MixError, checked_mix, parse_mix

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
}  # fmt: skip
"""Comparisons that a threshold may use."""

Schema = dict[str, Any]
"""A JSON Schema, or a part of one."""

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h)")
_BOUND = re.compile(r"\s*(<=|>=|==|<|>)\s*(\S+)\s*")
_NUMBER = r"[+-]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][+-]?[0-9]+)?"


def unknown(word: str, known: Iterable[str], what: str) -> str:
    """The sentence for a word that is none of `known`: the nearest one, or all of them."""
    known = tuple(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"unknown {what}; " + (f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}")


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `250ms`, `1s`, `1.5m` or `24h`.

    Raises:
        ValueError: it is no number with one of these units.
    """
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError('expected a number with a unit (ms, s, m or h), such as "40s"')
    # Rounded to what the fleet can keep; 0.1 ms times 3 must not become 0.00030000000000000003.
    return round(float(match[1]) * _UNIT_SECONDS[match[2]], 6)


def seconds(value: float) -> str:
    """A duration in seconds, for people: `250ms`, `40s`, `24h`."""
    for unit in ("h", "m", "s"):
        if value >= _UNIT_SECONDS[unit] and (value / _UNIT_SECONDS[unit]).is_integer():
            return f"{value / _UNIT_SECONDS[unit]:.0f}{unit}"
    return f"{value:g}s" if value >= 1 or not value else f"{value * 1000:g}ms"


def bound(value: object) -> tuple[str, float]:
    """Comparison and limit of a threshold such as `< 1000`.

    Raises:
        ValueError: it is no comparison with a finite number.
    """
    match = _BOUND.fullmatch(value) if isinstance(value, str) else None
    try:
        limit = float(match[2]) if match else nan
    except ValueError:
        limit = nan
    if not match or not isfinite(limit):
        raise ValueError(f'expected a comparison ({" ".join(OPERATORS)}) and a number, such as "< 1000"')
    return match[1], limit


class Kind(Protocol):
    """A kind of value."""

    def read(self, value: object) -> Any:
        """The value of what a file holds.

        Raises:
            ValueError: it is none; its sentence says what was expected.
        """

    def told(self) -> str:
        """For people: what it is, and from where to where."""

    def schema(self) -> Schema:
        """Of what a file may hold."""


class Duration:
    """A text such as `40s`; read as seconds."""

    def __init__(self, least: str, most: str) -> None:
        self._least, self._most = least, most

    def read(self, value: object) -> float:
        """See `Kind`."""
        found = parse_duration(value if isinstance(value, str) else "")
        if not parse_duration(self._least) <= found <= parse_duration(self._most):
            raise ValueError(f"expected a duration from {self._least} to {self._most}")
        return found

    def told(self) -> str:
        """See `Kind`."""
        return f"duration (ms, s, m, h), {self._least} to {self._most}"

    def schema(self) -> Schema:
        """See `Kind`."""
        return {"type": "string", "pattern": f"^{_DURATION.pattern}$"}


class WholeSeconds(Duration):
    """A duration as tokens have it."""

    def read(self, value: object) -> float:
        """See `Kind`."""
        found = super().read(value)
        if not found.is_integer():
            raise ValueError("expected whole seconds, as tokens have them")
        return found


class SignedDuration:
    """Of a clock: ahead, or with a minus behind; not 0. Read as seconds."""

    _LEAST = "1ms"

    def __init__(self, most: str) -> None:
        self._most = most

    def read(self, value: object) -> float:
        """See `Kind`."""
        text = value if isinstance(value, str) else ""
        found = parse_duration(text.removeprefix("-"))
        if not parse_duration(self._LEAST) <= found <= parse_duration(self._most):
            raise ValueError(
                f"expected a duration from {self._LEAST} to {self._most}, with a minus for a clock that is behind"
            )
        return -found if text.startswith("-") else found

    def told(self) -> str:
        """See `Kind`."""
        return f"duration (ms, s, m, h), {self._LEAST} to {self._most}, or with a minus"

    def schema(self) -> Schema:
        """See `Kind`."""
        return {"type": "string", "pattern": f"^-?{_DURATION.pattern}$"}


class Integer:
    """A whole number."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most

    def read(self, value: object) -> int:
        """See `Kind`."""
        if isinstance(value, bool) or not isinstance(value, int) or not self._least <= value <= self._most:
            raise ValueError(f"expected an integer from {self._least} to {self._most}")
        return value

    def told(self) -> str:
        """See `Kind`."""
        return f"integer, {self._least} to {self._most}"

    def schema(self) -> Schema:
        """See `Kind`."""
        return {"type": "integer", "minimum": self._least, "maximum": self._most}


class Number:
    """A number."""

    def __init__(self, least: float, most: float) -> None:
        self._least, self._most = least, most

    def read(self, value: object) -> float:
        """See `Kind`."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self._least <= value <= self._most:
            raise ValueError(f"expected a number from {self._least:g} to {self._most:g}")
        return float(value)

    def told(self) -> str:
        """See `Kind`."""
        return f"number, {self._least:g} to {self._most:g}"

    def schema(self) -> Schema:
        """See `Kind`."""
        return {"type": "number", "minimum": self._least, "maximum": self._most}


class Flag:
    """Yes or no."""

    def read(self, value: object) -> bool:
        """See `Kind`."""
        if value is not True and value is not False:
            raise ValueError("expected true or false")
        return value is True

    def told(self) -> str:
        """See `Kind`."""
        return "true or false"

    def schema(self) -> Schema:
        """See `Kind`."""
        return {"type": "boolean"}


class Text:
    """A text with something in it."""

    def read(self, value: object) -> str:
        """See `Kind`."""
        if not isinstance(value, str) or not value.strip():
            raise ValueError("expected a text that is not empty")
        return value

    def told(self) -> str:
        """See `Kind`."""
        return "text"

    def schema(self) -> Schema:
        """See `Kind`."""
        return {"type": "string", "pattern": r"\S"}


class OneOf:
    """One of a few words."""

    def __init__(self, what: str, *known: str) -> None:
        self._what, self._known = what, known

    def read(self, value: object) -> str:
        """See `Kind`."""
        if value not in self._known:
            raise ValueError(f"expected a {self._what}: {', '.join(self._known)}")
        return str(value)

    def told(self) -> str:
        """See `Kind`."""
        return f"one of {', '.join(self._known)}"

    def schema(self) -> Schema:
        """See `Kind`."""
        return {"enum": list(self._known)}


class FaultName:
    """The kind of a fault."""

    def read(self, value: object) -> str:
        """See `Kind`."""
        if value not in FAULTS:
            raise ValueError(unknown(str(value), FAULTS, "fault"))
        return str(value)

    def told(self) -> str:
        """See `Kind`."""
        return f"one of {', '.join(FAULTS)}"

    def schema(self) -> Schema:
        """See `Kind`."""
        return {"enum": list(FAULTS)}


class Mix:
    """Weights of profiles: a table, or a text as `simulate` takes it."""

    def read(self, value: object) -> Mapping[str, int]:
        """See `Kind`."""
        try:
            return checked_mix(value) if isinstance(value, dict) else parse_mix(value if isinstance(value, str) else "")
        except MixError as error:
            raise ValueError(f"expected {error}") from None

    def told(self) -> str:
        """See `Kind`."""
        return f"table of weights, 1 to {MAX_WEIGHT}, of {', '.join(PROFILES)}"

    def schema(self) -> Schema:
        """See `Kind`."""
        weight = {"type": "integer", "minimum": 1, "maximum": MAX_WEIGHT}
        names = {str(profile): weight for profile in PROFILES}
        table = {"type": "object", "properties": names, "additionalProperties": False, "minProperties": 1}
        return {"anyOf": [table, {"type": "string", "pattern": r"^[a-z-]+=[0-9]+(,[a-z-]+=[0-9]+)*$"}]}


class Bound:
    """The comparison of a threshold."""

    def read(self, value: object) -> str:
        """See `Kind`."""
        bound(value)
        return str(value)

    def told(self) -> str:
        """See `Kind`."""
        return f"comparison ({' '.join(OPERATORS)}) and number"

    def schema(self) -> Schema:
        """See `Kind`."""
        return {"type": "string", "pattern": rf"^\s*(<=|>=|==|<|>)\s*{_NUMBER}\s*$"}
