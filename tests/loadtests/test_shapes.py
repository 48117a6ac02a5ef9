"""Load shapes: how many browsers there are, and the text by which a Locust process is told."""

import pytest

from loadtests.shapes import ShapeError, parse_shape, shape_text
from simulator.scenario_shapes import Shape


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("steady", 7, {0: 7, 100: 7}),
        ("ramp:over=10s", 5, {0: 1, 1: 1, 2: 1, 2.1: 2, 5: 3, 9.9: 5, 10: 5, 99: 5}),
        ("stairs:steps=5,step=10s", 5, {0: 1, 9.9: 1, 10: 2, 39: 4, 40: 5, 500: 5}),
        ("stairs:steps=3,step=1s", 10, {0: 4, 1: 7, 2: 10}),
        ("spike:at=20s,for=5s,base=0.2", 10, {0: 2, 19.9: 2, 20: 10, 24.9: 10, 25: 2, 99: 2}),
        ("spike:at=20s,for=5s,base=0", 10, {0: 1, 21: 10, 26: 1}),
    ],
)
def test_a_shape_says_how_many_are_there(text: str, most: int, expected: dict[float, int]) -> None:
    """At each time, and never none or more than all."""
    shape = parse_shape(text)

    assert {at: shape.browsers(most, at) for at in expected} == expected


@pytest.mark.parametrize(
    "shape",
    [
        Shape(),
        Shape(kind="ramp", over_seconds=90),
        Shape(kind="stairs", steps=4, step_seconds=2.5),
        Shape(kind="spike", at_seconds=20, for_seconds=5, base=0.25),
    ],
    ids=lambda shape: shape.kind,
)
def test_a_shape_comes_through_its_text(shape: Shape) -> None:
    """What the runner writes Locust reads."""
    assert parse_shape(shape_text(shape)) == shape


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("stears", "stears: unknown shape; did you mean stairs?"),
        ("ramp:steps=3", "steps=3: a shape ramp takes over="),
        ("steady:over=3s", "over=3s: a shape steady takes nothing"),
        ("ramp:over", "over: a shape ramp takes over="),
        ("ramp:over=3", "over = 3: expected a number with a unit"),
        ("stairs:steps=1", "steps = 1: expected an integer from 2 to 100"),
        ("stairs:steps=x", "steps = x: expected an integer"),
        ("spike:base=2.5", "base = 2.5: expected a number from 0 to 1"),
    ],
)
def test_a_text_that_is_no_shape_is_told(text: str, sentence: str) -> None:
    """What was found, and what was expected."""
    with pytest.raises(ShapeError) as error:
        parse_shape(text)

    assert str(error.value).startswith(sentence)
