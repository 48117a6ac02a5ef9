"""The JSON Schema of scenarios."""

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from loadtests.scenario_schema import scenario_schema
from simulator.scenario_files import shipped

ROOT = Path(__file__).parents[2]
PATH = ROOT / "docs" / "scenario.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(json.loads(PATH.read_text()))
QUESTION = 'question = "q"\n'


def mistakes(text: str) -> list[str]:
    """Where a document breaks the schema."""
    return [error.json_path for error in VALIDATOR.iter_errors(tomllib.loads(text))]


def test_the_schema_that_is_checked_in_is_that_of_the_code() -> None:
    """`make scenario-schema` writes it."""
    assert json.loads(PATH.read_text()) == scenario_schema()
    jsonschema.Draft202012Validator.check_schema(scenario_schema())


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_scenarios_that_we_ship_keep_to_the_schema(path: Path) -> None:
    """As do files that say the same with quotes, in tables or of a phase."""
    assert mistakes(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        QUESTION,
        'extends = "steady-1k"',
        QUESTION + '[thresholds]\n"ack_latency_ms.p99" = "<1e3"\n"after.ack_latency_ms.p99" = "<= 2_000"',
        QUESTION + '[thresholds.after]\nack_latency_ms.p99 = {bound = "> -1.5", abort = true, grace = "3s"}',
        'extends = "a.toml"\n[thresholds]\nack_latency_ms.p99 = "none"',
        QUESTION + "[fleet.profiles]\nweb = 3",
        QUESTION + '[server.env]\nSEATRIAL_LANES = "3"',
        QUESTION + '[[fault]]\nat = "1s"\nkind = "clock_skew"\nskew = "-90s"\nagents = 3',
    ],
)
def test_what_can_be_said_in_several_ways_is_valid(text: str) -> None:
    """Whatever `load` reads the same."""
    assert mistakes(text) == []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("seed = 1", "$"),
        ('question = " "', "$.question"),
        (QUESTION + "[fleet]\nagnets = 3", "$.fleet"),
        (QUESTION + '[fleet]\nagents = "200"', "$.fleet.agents"),
        (QUESTION + "[fleet]\nagents = 0", "$.fleet.agents"),
        (QUESTION + "duration = 40", "$.duration"),
        (QUESTION + 'duration = "40"', "$.duration"),
        (QUESTION + 'duration = "40 sec"', "$.duration"),
        (QUESTION + 'warm_up = "1d"', "$.warm_up"),
        (QUESTION + '[fleet]\ntransport = "udp"', "$.fleet.transport"),
        (QUESTION + '[ui.shape]\nkind = "stears"', "$.ui.shape.kind"),
        (QUESTION + "[fleet.profiles]\nwebb = 1", "$.fleet.profiles"),
        (QUESTION + '[server.env]\nPATH = "x"', "$.server.env"),
        (QUESTION + '[server.env]\nSEATRIAL_PORT = "1"', "$.server.env"),
        (QUESTION + '[server.env]\nSEATRIAL_OUTBOX_BYTES = 3', "$.server.env.SEATRIAL_OUTBOX_BYTES"),
        (QUESTION + '[[fault]]\nat = "1s"', "$.fault[0]"),
        (QUESTION + '[[fault]]\nat = "1s"\nkind = "quake"', "$.fault[0].kind"),
        (QUESTION + '[[fault]]\nat = "1s"\nkind = "server_kill"\nfor = "3s"', "$.fault[0]"),
        (QUESTION + '[fault]\nat = "1s"\nkind = "server_kill"', "$.fault"),
        (QUESTION + '[thresholds]\nack_latency.p99 = "< 5"', "$.thresholds"),
        (QUESTION + '[thresholds]\nack_latency_ms.p98 = "< 5"', "$.thresholds.ack_latency_ms"),
        (QUESTION + '[thresholds]\nresends.p99 = "< 5"', "$.thresholds.resends"),
        (QUESTION + '[thresholds]\nack_latency_ms.p99 = "5"', "$.thresholds.ack_latency_ms.p99"),
        (QUESTION + '[thresholds]\nack_latency_ms.p99 = "< 5ms"', "$.thresholds.ack_latency_ms.p99"),
        (QUESTION + '[thresholds]\nack_latency_ms.p99 = {bound = "< 5", abrot = true}', "$.thresholds.ack_latency_ms.p99"),
        (QUESTION + '[thresholds.after]\nresends.count = "< 5"', "$.thresholds.after"),
    ],
)  # fmt: skip
def test_typical_mistakes_are_none(text: str, where: str) -> None:
    """An editor marks the place."""
    assert where in mistakes(text)
