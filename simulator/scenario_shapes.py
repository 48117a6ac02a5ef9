"""The load shapes of a scenario: how many of its browsers are there at a time, and which keys cannot go together."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from msgspec import Struct

from simulator.scenario_format import SHAPES, seconds


class Shape(Struct, frozen=True, kw_only=True):
    """How the number of browsers changes. What its kind does not know is 0."""

    kind: str = "steady"
    over_seconds: float = 0.0
    """ramp: from the first browser to the last."""
    steps: int = 0
    step_seconds: float = 0.0
    """stairs: so many, so far apart."""
    at_seconds: float = 0.0
    for_seconds: float = 0.0
    base: float = 0.0
    """spike: when all come, how long they stay, and the share that is there before and after."""

    def describe(self) -> str:
        """For people: `stairs of 5 steps, 10s each`."""
        match self.kind:
            case "ramp":
                return f"ramp over {seconds(self.over_seconds)}"
            case "stairs":
                return f"stairs of {self.steps} steps, {seconds(self.step_seconds)} each"
            case "spike":
                return (
                    f"spike at {seconds(self.at_seconds)} for {seconds(self.for_seconds)}, else {self.base:.4g} of them"
                )
            case _:
                return self.kind

    def browsers(self, most: int, elapsed_seconds: float) -> int:
        """How many of `most` browsers are there so long after the first came; at least one."""
        match self.kind:
            case "ramp":
                share = elapsed_seconds / self.over_seconds
            case "stairs":
                share = (1 + elapsed_seconds // self.step_seconds) / self.steps
            case "spike":
                within = self.at_seconds <= elapsed_seconds < self.at_seconds + self.for_seconds
                share = 1.0 if within else self.base
            case _:
                share = 1.0
        # A share such as 3 / 5 of 5 must not become 4 browsers by what a float lacks.
        return min(most, max(1, math.ceil(round(most * share, 6))))


def make_shape(values: Mapping[str, Any]) -> Shape:
    """The shape of checked values, by the keys of the format."""
    kind = values["ui.shape.kind"]
    fields = {_field(name): values[f"ui.shape.{name}"] for name in SHAPES[kind].keys}
    return Shape(kind=kind, **fields)


def _field(name: str) -> str:
    return f"{name}_seconds" if name in {"over", "step", "at", "for"} else name


def conflicts(values: Mapping[str, Any], given: Collection[str]) -> Iterator[tuple[str, str]]:
    """What no single key of the shape shows.

    Args:
        values: of the format's keys, as they were read; a key with a mistake of its own is left out.
        given: keys that somebody gave.

    Yields:
        The key at fault, and what was expected.
    """
    kind = values.get("ui.shape.kind")
    if kind is None:
        return
    for name in (name for shape in SHAPES.values() for name in shape.keys):
        if f"ui.shape.{name}" in given and name not in SHAPES[kind].keys:
            yield f"ui.shape.{name}", f'has no effect with ui.shape.kind = "{kind}"'
    needed = {"duration", "ui.subscribers", "ui.spawn_rate", *(f"ui.shape.{name}" for name in SHAPES[kind].keys)}
    if kind == "steady" or not needed <= values.keys():
        return
    shape, duration = make_shape(values), values["duration"]
    within = f"inside the duration of {seconds(duration)}"
    match kind:
        case "ramp":
            if shape.over_seconds > duration:
                yield "ui.shape.over", f"must end {within}"
            per_second = values["ui.subscribers"] / shape.over_seconds
            if per_second > values["ui.spawn_rate"]:
                yield (
                    "ui.spawn_rate",
                    f"expected at least {math.ceil(per_second)}, or the ramp takes longer than it says",
                )
        case "stairs":
            if shape.step_seconds * shape.steps > duration:
                yield "ui.shape.step", f"{shape.steps} steps must end {within}"
        case "spike":
            if shape.at_seconds + shape.for_seconds > duration:
                yield "ui.shape.at", f"the spike of {seconds(shape.for_seconds)} must end {within}"
