"""Scenario files: where they are found, and how one that extends another becomes whole.

`extends` names a shipped scenario, or a file by its path from the one that names it. Tables are merged key by key, the child's
value wins. What is no table is replaced whole: so are `[[fault]]` (its times belong together; `fault = []` takes all of them
out) and `fleet.profiles`. A threshold that is a text is its `bound`; `"none"` takes it out.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from simulator.scenario_format import KEYS, Problem, ScenarioError, unknown

SHIPPED = Path(__file__).parents[1] / "scenarios"
"""Beside the packages, in the repository as well as where they are installed."""
SUFFIX = ".toml"
MOST_LAYERS = 8
"""Scenarios of which each extends the next."""
EXTENDS = "extends"


class Layer(NamedTuple):
    """One file of a scenario."""

    path: Path
    document: Mapping[str, Any]


def shipped() -> list[Path]:
    """The scenarios that are shipped, by name."""
    return sorted(SHIPPED.glob(f"*{SUFFIX}"))


def locate(named: Path) -> Path:
    """The file that is meant: a path, or where there is no such file the name of a shipped scenario.

    Raises:
        ScenarioError: it has the form of a name, and is none.
    """
    if named.suffix == SUFFIX or len(named.parts) != 1 or named.is_file():
        return named
    try:
        return _shipped(named.name)
    except ValueError as wrong:
        raise ScenarioError(Problem(str(named), "", ..., str(wrong))) from None


def read_layers(path: Path) -> list[Layer]:
    """A file and those that it extends, the outermost parent first.

    Raises:
        ScenarioError: one of them cannot be read, or they go round in a circle.
    """
    layers = [Layer(path, _document(path))]
    while EXTENDS in (child := layers[0]).document:
        value = child.document[EXTENDS]
        try:
            parent = _parent(child.path, KEYS[EXTENDS].read(value))
            _check_chain(layers, parent)
        except ValueError as wrong:
            raise ScenarioError(Problem(str(child.path), EXTENDS, value, str(wrong))) from None
        layers.insert(0, Layer(parent, _document(parent)))
    return layers


def _parent(child: Path, named: str) -> Path:
    if "/" not in named and not named.endswith(SUFFIX):
        return _shipped(named)
    parent = child.parent / named
    if not parent.is_file():
        raise ValueError(f"there is no file {parent}")
    return parent


def _shipped(name: str) -> Path:
    names = {path.stem: path for path in shipped()}
    if name not in names:
        raise ValueError(unknown(name, names, "scenario"))
    return names[name]


def _check_chain(layers: list[Layer], parent: Path) -> None:
    known = [layer.path.resolve() for layer in layers]
    if parent.resolve() in known:
        ring = layers[: known.index(parent.resolve()) + 1]
        names = " extends ".join(str(path) for path in (*(layer.path for layer in reversed(ring)), ring[-1].path))
        raise ValueError(f"goes round in a circle: {names}")
    if len(layers) >= MOST_LAYERS:
        raise ValueError(f"expected at most {MOST_LAYERS} scenarios of which each extends the next")


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        wrong = f"expected UTF-8; byte {error.start} is not"
    except (ValueError, RecursionError) as error:  # ValueError: TOMLDecodeError, and integers of over 4300 digits
        wrong = f"expected TOML: {error}"
    raise ScenarioError(Problem(str(path), "", ..., wrong))


def leaves(table: Mapping[str, Any], whole: frozenset[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by key path. `"a.b" = 1` and `a.b = 1` are the same, so thresholds may be written without quotes.

    Args:
        table: a document, or a part of it.
        whole: keys whose value is a table.
        prefix: of the part.
    """
    for name, value in table.items():
        path = prefix + name
        if isinstance(value, dict) and path not in whole:
            yield from leaves(value, whole, path + ".")
        elif path == "fault" and isinstance(value, list):
            for i, item in enumerate(value):
                if isinstance(item, dict):
                    yield from leaves(item, whole, f"fault[{i}].")
                else:
                    yield f"fault[{i}]", item
        else:
            yield path, value
