"""Actions that wait for their agent: kept once, due by host, and gone without a trace."""

import asyncio

from server.action_pending import PendingActions
from tests.support.actions import action

HOST, OTHER = ("o", "h1"), ("o", "h2")


def test_an_action_waits_once() -> None:
    """Kept again, as a reread does, it is the one that was there."""
    pending = PendingActions()
    first = action("a")
    pending.keep(first)
    pending.keep(action("a", reason="read again"))
    pending.keep(action("b", host="h2"))

    assert list(pending.of(HOST)) == [first]
    assert len(pending) == 2


def test_nothing_is_left_of_what_is_forgotten() -> None:
    """The host goes with its last action; asking for hosts, and forgetting what is not there, leaves nothing either."""
    pending = PendingActions()
    pending.keep(action("a"))
    pending.keep(action("b"))

    pending.forget([action("a")])
    assert [waiting.action_id for waiting in pending.of(HOST)] == ["b"]
    pending.forget([action("b"), action("never kept", host="h2")])
    assert list(pending.of(HOST)) == list(pending.of(OTHER)) == []
    assert pending._waiting == {}
    assert len(pending) == 0


async def test_only_hosts_with_actions_become_due() -> None:
    """An agent for which nothing waits wakes nobody; one with actions is due until it is taken, and again when given back."""
    pending = PendingActions()
    pending.make_due(HOST)
    assert pending.take_due() == set()

    pending.keep(action("a"))
    pending.keep(action("b", host="h2"))
    pending.make_due(HOST)
    async with asyncio.timeout(5):
        await pending.wait()
    assert pending.take_due() == {HOST}
    assert pending.take_due() == set()

    pending.give_back({HOST})
    pending.make_all_due()
    assert pending.take_due() == {HOST, OTHER}


async def test_what_failed_is_tried_again() -> None:
    """After `try_again` the wait returns, though nothing new became due."""
    pending = PendingActions()
    waiting = asyncio.create_task(pending.wait())
    await asyncio.sleep(0)  # let it begin to wait
    assert not waiting.done()
    pending.try_again()
    async with asyncio.timeout(5):
        await waiting
