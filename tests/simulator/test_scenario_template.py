"""The scenario that `seatrial new` writes."""

import re
import tomllib
from pathlib import Path

import pytest

from simulator.fault_kinds import FAULTS
from simulator.scenario import load
from simulator.scenario_format import FAULT_KEYS, KEYS, SHAPES, STRATEGIES
from simulator.scenario_template import template


def written(directory: Path, text: str) -> Path:
    """A file of it."""
    path = directory / "mine.toml"
    path.write_text(text)
    return path


def test_it_runs_as_it_is(tmp_path: Path) -> None:
    """Its values are the defaults, with a question and some thresholds."""
    scenario = load(written(tmp_path, template("mine")))
    plain = load(written(tmp_path, 'question = "Does mine hold?"'))

    assert (scenario.question, scenario.faults) == ("Does mine hold?", ())
    assert scenario.thresholds
    for section in ("fleet", "ui", "actions", "server", "storage", "duration_seconds", "seed", "warm_up_seconds"):
        assert getattr(scenario, section) == getattr(plain, section)


@pytest.mark.parametrize("key", [*KEYS, *(f"fault.{name}" for name in FAULT_KEYS)])
def test_every_key_stands_there_with_its_default(key: str) -> None:
    """In its table, commented out, with a value that the format takes: its default, where it has one."""
    section, _, leaf = key.rpartition(".")
    header = {"": "", "fault": "# [[fault]]"}.get(section, f"[{section}]")
    text = template("x")
    place = text[text.index(f"\n{header}\n") if header else 0 :]
    line = re.search(rf"^(?:# )?{leaf} = .*$", place, re.MULTILINE)
    assert line is not None
    before = place[: line.start()]
    known = FAULT_KEYS[leaf] if section == "fault" else KEYS[key]
    value = tomllib.loads(line[0].removeprefix("# "))[leaf]

    assert not re.search(r"^\[", before.removeprefix(f"\n{header}"), re.MULTILINE)
    assert known.meaning.split()[0] in before
    known.read(value)
    if known.default is not ... and known.default is not None:
        assert known.read(value) == known.read(known.default)


def test_every_word_of_the_format_is_explained() -> None:
    """Faults, shapes and strategies, each with its meaning."""
    text = " ".join(template("x").replace("\n#", " ").split())

    for name, meaning in (
        *((name, kind.meaning) for name, kind in FAULTS.items()),
        *((name, shape.meaning) for name, shape in SHAPES.items()),
        *STRATEGIES.items(),
    ):
        assert f"{name}: {meaning}" in text


@pytest.mark.parametrize("name", ['a"b', "a\\b", "ünicode", "$(x)"])
def test_any_name_makes_a_file_that_can_be_read(name: str, tmp_path: Path) -> None:
    """Quotes and backslashes are escaped."""
    assert load(written(tmp_path, template(name))).question == f"Does {name} hold?"
