"""The file of attempts."""

from pathlib import Path

import pytest

from loadtests.attempts import Attempt, AttemptLog, new_reason, read_attempts


def attempt(reason: str = "run/1") -> Attempt:
    """An attempt that begins."""
    return Attempt(
        reason=reason, at_us=1, actor="o", role="operator", kind="stop", container="7", expected="accepted"
    )  # fmt: skip


def test_the_later_line_of_an_attempt_counts(tmp_path: Path) -> None:
    """An attempt has a line when it begins and one when it is over; one that was cut off has the first."""
    log = AttemptLog(tmp_path / "a.jsonl")
    whole, cut = attempt("run/1"), attempt("run/2")
    log.write(whole)
    log.write(cut)
    whole.status, whole.action_id, whole.state, whole.over = 202, "a", "succeeded", True
    log.write(whole)
    log.close()
    log.close()
    found = read_attempts(tmp_path / "a.jsonl")

    assert found == {"run/1": whole, "run/2": cut}
    assert (found["run/1"].accepted, found["run/2"].accepted, found["run/2"].over) == (True, False, False)


def test_each_line_is_there_at_once(tmp_path: Path) -> None:
    """What is killed right after has left its line."""
    log = AttemptLog(tmp_path / "a.jsonl")
    log.write(attempt())

    assert list(read_attempts(tmp_path / "a.jsonl")) == ["run/1"]
    log.close()


def test_a_half_line_is_left_out_and_a_wrong_one_told(tmp_path: Path) -> None:
    """A process that was killed in the middle of a line spoils nothing; anything else is an error with its place."""
    path = tmp_path / "a.jsonl"
    log = AttemptLog(path)
    log.write(attempt())
    log.close()
    with path.open("a") as file:
        file.write('{"reason":"run/2","at')
    assert list(read_attempts(path)) == ["run/1"]

    with path.open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=r"a\.jsonl:2: .*expected an attempt"):
        read_attempts(path)


def test_without_a_file_nothing_is_kept() -> None:
    """By hand nobody may want it."""
    log = AttemptLog(None)
    log.write(attempt())
    log.close()


def test_reasons_begin_with_the_run_and_are_unique() -> None:
    """The audit log is searched by them."""
    reasons = {new_reason("smoke-1") for _ in range(100)}

    assert len(reasons) == 100
    assert all(reason.startswith("smoke-1/") for reason in reasons)
