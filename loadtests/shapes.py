"""A load shape as a text, in which a Locust process gets it: `stairs:steps=5,step=10s`."""

from simulator.scenario_format import KEYS, SHAPES, seconds, unknown
from simulator.scenario_shapes import Shape, make_shape

_PREFIX = "ui.shape."


class ShapeError(Exception):
    """A text that is no shape; its sentence says what was expected."""


def shape_text(shape: Shape) -> str:
    """The text of a shape."""
    parts = []
    for name in SHAPES[shape.kind].keys:
        value = getattr(shape, name, None)
        parts.append(f"{name}={seconds(getattr(shape, f'{name}_seconds')) if value is None else f'{value:g}'}")
    return ":".join(filter(None, (shape.kind, ",".join(parts))))


def parse_shape(text: str) -> Shape:
    """The shape of a text; keys that it leaves out have the defaults of a scenario.

    Raises:
        ShapeError: it is none.
    """
    kind, _, rest = text.partition(":")
    if kind not in SHAPES:
        raise ShapeError(f"{kind}: {unknown(kind, SHAPES, 'shape')}")
    values = {key: known.read(known.default) for key, known in KEYS.items() if key.startswith(_PREFIX)}
    values[f"{_PREFIX}kind"] = kind
    for part in filter(None, rest.split(",")):
        name, equals, value = part.partition("=")
        if name not in SHAPES[kind].keys or not equals:
            takes = ", ".join(f"{key}=" for key in SHAPES[kind].keys) or "nothing"
            raise ShapeError(f"{part}: a shape {kind} takes {takes}")
        known = KEYS[_PREFIX + name]
        try:
            values[_PREFIX + name] = known.read(value if isinstance(known.default, str) else _number(value))
        except ValueError as error:
            raise ShapeError(f"{name} = {value}: {error}") from None
    return make_shape(values)


def _number(text: str) -> object:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text
