"""Results that wait for the database: the newest of each action, within a bound for each organisation."""

import asyncio

import pytest

from server.action_records import Result
from server.action_results import ResultBuffer


def result(action_id: str = "a", *, org: str = "o", detail: str = "") -> Result:
    """A success that host h1 reports."""
    return Result(org, "h1", action_id, "succeeded", 1_000_000, detail)


def test_the_newest_result_of_an_action_is_kept() -> None:
    """A repetition takes the place of what it repeats, and counts once."""
    buffer = ResultBuffer()
    newest = result("a", detail="again")
    buffer.put(result("a"))
    buffer.put(result("b"))
    buffer.put(newest)

    assert buffer.oldest(1) == [newest]
    assert len(buffer) == 2


def test_an_organisation_fills_only_its_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound a new result is refused, a repetition is not, and others have room; room comes back."""
    monkeypatch.setattr("server.action_results.MAX_RESULTS", 2)
    buffer = ResultBuffer()
    taken = [buffer.put(result(name)) for name in ("a", "b", "c", "a")]
    assert taken == [True, True, False, True]
    assert buffer.put(result("d", org="p"))

    buffer.remove(buffer.oldest(1))
    assert buffer.put(result("c"))


def test_nothing_is_left_of_what_is_stored() -> None:
    """What is removed is gone with its organisation's count; what came anew meanwhile stays."""
    buffer = ResultBuffer()
    buffer.put(result("a"))
    buffer.put(result("b", org="p"))
    stored = buffer.oldest(10)
    newer = result("a", detail="again")
    buffer.put(newer)

    buffer.remove(stored)
    assert buffer.oldest(10) == [newer]
    buffer.remove([newer])
    assert buffer._results == {}
    assert buffer._of_org == {}


async def test_a_result_wakes_who_stores() -> None:
    """`wait` returns for what was put, once, and again for what shall be tried again."""
    buffer = ResultBuffer()
    buffer.put(result())
    async with asyncio.timeout(5):
        await buffer.wait()
    waiting = asyncio.create_task(buffer.wait())
    await asyncio.sleep(0)  # let it begin to wait
    assert not waiting.done()
    buffer.try_again()
    async with asyncio.timeout(5):
        await waiting
