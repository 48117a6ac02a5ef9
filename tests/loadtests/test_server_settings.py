"""The variables of `[server.env]`, and the settings of `[postgres]`."""

import os
from pathlib import Path

import pytest

from loadtests.server_settings import validate_postgres_settings, validate_server_settings
from simulator.scenario import ScenarioError, load
from simulator.scenario_files import shipped


def check(directory: Path, *lines: str) -> None:
    """Check a scenario with these variables."""
    path = directory / "x.toml"
    path.write_text('question = "q"\n[server.env]\n' + "\n".join(lines))
    validate_server_settings(load(path))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('SEATRIAL_LANE = "3"', 'SEATRIAL_LANE = "3": unknown setting of the server; did you mean SEATRIAL_LANES?'),
        ('SEATRIAL_OUTBOX_BYTES = "64KB"', 'SEATRIAL_OUTBOX_BYTES = "64KB": Input should be a valid integer'),
        ('SEATRIAL_FLUSH_SECONDS = "100ms"', 'SEATRIAL_FLUSH_SECONDS = "100ms": Input should be a valid number'),
        ('SEATRIAL_LANES = "0"', 'SEATRIAL_LANES = "0": Input should be greater than or equal to 1'),
    ],
)
def test_a_variable_that_the_server_would_not_take_is_a_mistake(tmp_path: Path, line: str, sentence: str) -> None:
    """Told with its key before anything starts, and not ignored."""
    with pytest.raises(ScenarioError) as error:
        check(tmp_path, line)

    assert f"x.toml: server.env.{sentence}" in str(error.value)


def test_what_surrounds_us_is_no_part_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that somebody set for another purpose are neither judged nor lost."""
    monkeypatch.setenv("SEATRIAL_LANES", "wrong")
    check(tmp_path, 'SEATRIAL_POOL_SIZE = "5"')

    assert os.environ["SEATRIAL_LANES"] == "wrong"
    assert "SEATRIAL_POOL_SIZE" not in os.environ


@pytest.mark.parametrize(
    ("setting", "database_url", "sentence"),
    [
        ('port = "1"', None, "postgres.port = \"1\": The Postgres setting 'port' = '1' cannot be set"),
        ('fsync = "off"', None, "is refused, expected 'on': what is acked is on disk"),
        (
            'work_mem = "4MB"',
            "postgresql://h/d",
            'postgres.work_mem = "4MB": the Postgres of --database-url has its own: --set',
        ),
    ],
)
def test_a_setting_that_postgres_may_not_have_is_a_mistake(
    tmp_path: Path, setting: str, database_url: str | None, sentence: str
) -> None:
    """What would take a promise back, what is ours to set, and what nobody would set."""
    path = tmp_path / "x.toml"
    path.write_text(f'question = "q"\n[postgres]\n{setting}\nshared_buffers = "128MB"\n')

    with pytest.raises(ScenarioError) as error:
        validate_postgres_settings(load(path), database_url)

    assert sentence in str(error.value)
    assert ("shared_buffers" in str(error.value)) == (database_url is not None)


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_scenarios_that_we_ship_set_what_there_is(path: Path) -> None:
    """Each variable, in a unit that the server reads."""
    validate_server_settings(load(path))
