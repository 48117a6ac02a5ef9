"""What the server's /metrics say of its prunings."""

from loadtests.prunings import BEGUN, ENDED, Pruning, Prunings, latencies, quiet_around, quiet_between
from loadtests.scrape import Sample
from loadtests.timed import Timed, Window
from simulator.intervals import Intervals

SECOND = 1_000_000


def told(begun: float, ended: float, metrics: float, lines: float = 0) -> Sample:
    """A scrape."""
    return {
        (BEGUN, ""): begun, (ENDED, ""): ended, ("seatrial_metric_rows_pruned_total", ""): metrics,
        ("seatrial_log_rows_pruned_total", ""): lines,
    }  # fmt: skip


def pruning(begun: int, ended: int, rows: float = 1) -> Pruning:
    """One, in seconds."""
    return Pruning(Window(begun * SECOND, ended * SECOND), rows)


def test_each_pruning_is_told_once_with_its_own_rows() -> None:
    """None before the first, none while it is under way, and looking again changes nothing."""
    prunings = Prunings()
    for scrape in (
        told(0, 0, 0), told(10, 0, 0), told(10, 11, 500, 50), told(10, 11, 500, 50), told(20, 11, 700, 50),
        told(20, 22.5, 900, 60), told(30, 31, 900, 60),
    ):  # fmt: skip
        prunings.update(scrape)

    assert [(p.window.from_us / SECOND, p.window.until_us / SECOND, p.rows) for p in prunings.done] == [
        (10, 11, 550),
        (20, 22.5, 410),
        (30, 31, 0),
    ]


def test_a_server_that_was_started_again_counts_from_zero() -> None:
    """What the new one removes is not lessened by what the old one had removed."""
    prunings = Prunings()
    for scrape in (told(10, 11, 500), told(0, 0, 0), told(20, 0, 80), told(20, 21, 700)):
        prunings.update(scrape)

    assert [p.rows for p in prunings.done] == [500, 700]


def test_the_quiet_around_a_pruning_reaches_half_way_to_its_neighbours() -> None:
    """No moment counts twice, and the outermost prunings have no quiet on both sides."""
    first, second, third, fourth = pruning(0, 2), pruning(10, 14), pruning(20, 21), pruning(31, 32)

    assert quiet_around([first, second, third, fourth]) == [
        (second, (Window(6 * SECOND, 10 * SECOND), Window(14 * SECOND, 17 * SECOND))),
        (third, (Window(17 * SECOND, 20 * SECOND), Window(21 * SECOND, 26 * SECOND))),
    ]
    assert quiet_around([first, second]) == []
    assert quiet_between([first, second, third]) == [
        Window(2 * SECOND, 10 * SECOND),
        Window(14 * SECOND, 20 * SECOND),
    ]


def test_latencies_are_told_apart_by_the_prunings() -> None:
    """From the first that removed rows: what was due in a second that a pruning touches, and the rest up to the last."""
    times = Intervals()
    for second in range(40):
        times.record(second + 1, second * SECOND)
    prunings = [pruning(5, 6, 0), pruning(10, 12), pruning(20, 21), pruning(30, 32)]

    while_pruning, quiet = latencies(prunings, Timed(times.encoded()))

    assert while_pruning.count == 2 + 1 + 2
    assert quiet.count == 8 + 9
    assert latencies([], Timed(times.encoded()))[0].count == 0
