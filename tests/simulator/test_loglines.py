"""The pool of log lines: rich in what a reader must survive, and the same for the same seed."""

import pytest

from server.protocol.canonical import LOG_TEXT_BYTES
from simulator.loglines import LogLines


@pytest.fixture(scope="module")
def lines() -> LogLines:
    """The pool of one seed."""
    return LogLines(5)


def test_the_same_seed_gives_the_same_pool(lines: LogLines) -> None:
    """Pools of one seed are equal, of two seeds not, and their digests say so."""
    assert LogLines(5).common == lines.common
    assert LogLines(5).digest == lines.digest
    assert LogLines(6).digest != lines.digest


def test_the_pool_holds_what_is_hard(lines: LogLines) -> None:
    """There is a line over the limit, one with NUL, a partial one, text beyond ASCII, and both streams."""
    assert any(len(line.text.encode()) > LOG_TEXT_BYTES for line in lines.rare)
    assert any("\x00" in line.text for line in lines.rare)
    assert any(line.partial for line in lines.rare)
    assert any(not line.text.isascii() for line in lines.common)
    assert {line.stream for line in lines.common} == {"stdout", "stderr"}
    assert len(lines.common) > 300


def test_every_line_is_one_line_and_can_be_encoded(lines: LogLines) -> None:
    """No line holds a line end or a lone surrogate."""
    for line in (*lines.common, *lines.rare):
        assert "\n" not in line.text
        line.text.encode()


def test_picking_is_a_function_of_its_arguments(lines: LogLines) -> None:
    """The same key and counter pick the same line; rare lines come, but rarely."""
    picked = [lines.pick(1, counter) for counter in range(20_000)]

    assert picked == [lines.pick(1, counter) for counter in range(20_000)]
    rare = sum(line in lines.rare for line in picked)
    assert 10 < rare < 100
    assert set(lines.rare) <= set(picked)
