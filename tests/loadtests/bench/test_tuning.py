"""Settings of Postgres and variables of the server, as a caller of a benchmark gives them."""

import pytest

from loadtests.bench.tuning import parse_postgres, parse_server


def test_what_is_given_is_kept() -> None:
    """Each by its name; a value may have equals signs of its own."""
    assert parse_postgres(["shared_buffers=4GB", "Max_WAL_Size=16GB"], None) == {
        "shared_buffers": "4GB", "max_wal_size": "16GB",
    }  # fmt: skip
    assert parse_server(["SEATRIAL_LANES=4", "SEATRIAL_X=a=b"]) == {"SEATRIAL_LANES": "4", "SEATRIAL_X": "a=b"}
    assert (parse_postgres([], "postgresql://somewhere"), parse_server([])) == ({}, {})


@pytest.mark.parametrize("text", ["shared_buffers", "=4GB", "shared_buffers=", "fsync=off", "port=5432", "a b=1"])
def test_a_setting_that_cannot_be_is_named(text: str) -> None:
    """No value, no name, a promise of durability given up, what the runner decides itself."""
    with pytest.raises(ValueError, match=f"--postgres {text}"):
        parse_postgres([text], None)


def test_another_server_keeps_its_settings() -> None:
    """With --database-url there is no private Postgres that could have them."""
    with pytest.raises(ValueError, match="--postgres jit=off: expected no --database-url"):
        parse_postgres(["jit=off"], "postgresql://somewhere")


@pytest.mark.parametrize("text", ["SEATRIAL_LANES", "SEATRIAL_LANES=", "LANES=4", "SEATRIAL_PORT=1"])
def test_a_variable_that_cannot_be_is_named(text: str) -> None:
    """No value, another program's, one that the runner sets itself."""
    with pytest.raises(ValueError, match=f"--server {text}"):
        parse_server([text])
