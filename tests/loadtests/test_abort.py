"""Thresholds that end a run early."""

from collections.abc import Mapping

from loadtests.abort import AbortWatch
from simulator.scenario import Threshold

SLOW = Threshold(metric="ack_latency_ms", stat="p99", op="<", limit=100, abort=True, grace_seconds=5)


def figures(value: float) -> Mapping[str, Mapping[str, float]]:
    """The run so far."""
    return {"ack_latency_ms": {"p99": value}}


def test_a_threshold_must_stay_broken() -> None:
    """Broken for the grace without a break it ends the run; a moment in which it holds begins the grace anew."""
    watch = AbortWatch([SLOW])

    assert watch.judge(1, figures(200)) is None
    assert watch.judge(5, figures(200)) is None
    assert watch.judge(5.5, figures(50)) is None
    assert watch.judge(6, figures(200)) is None
    assert watch.judge(10.9, figures(200)) is None
    aborted = watch.judge(11, figures(300))
    assert aborted is not None
    assert (aborted.threshold, aborted.value, aborted.after_seconds) == (SLOW, 300, 11)


def test_no_samples_end_nothing() -> None:
    """A metric that has no samples yet is not broken."""
    watch = AbortWatch([SLOW])
    for second in range(30):
        assert watch.judge(second, {"ack_latency_ms": {}} if second % 2 else {}) is None


def test_other_thresholds_are_not_watched() -> None:
    """Without `abort` there is nothing to watch."""
    assert AbortWatch([SLOW]).watches
    assert not AbortWatch([Threshold(metric="ack_latency_ms", stat="p99", op="<", limit=100)]).watches
