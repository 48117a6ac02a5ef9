"""Who looks at actions: the live topic, its snapshot, and requests that wait for an end."""

import asyncio

import pytest

from server.action_records import ActionRecord
from server.action_watch import ActionWatch
from server.protocol.messages import ActionStatus
from tests.support.actions import action


class Published(list[tuple[str, ActionStatus]]):
    """What the live topic was told."""

    def __call__(self, org: str, status: ActionStatus) -> None:
        """Write it down."""
        self.append((org, status))


def test_changes_are_told_to_their_organisation() -> None:
    """A change is told and shown; what an earlier process left is shown only."""
    published = Published()
    watch = ActionWatch(published)
    watch.remember(action("old"))
    watch.changed(action("new", state="sent"))
    watch.changed(action("theirs", org="p"))

    assert [(org, status.action_id) for org, status in published] == [("o", "new"), ("p", "theirs")]
    assert [status.action_id for status in watch.recent("o")] == ["old", "new"]
    assert [status.action_id for status in watch.recent("p")] == ["theirs"]


def test_the_snapshot_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest of an organisation are shown, each as it stands; another's do not count, and asking leaves nothing."""
    monkeypatch.setattr("server.action_watch.RECENT", 2)
    watch = ActionWatch(Published())
    for name in ("a", "b", "c"):
        watch.changed(action(name))
    watch.changed(action("x", org="p"))
    watch.ended(action("b", state="succeeded"))

    assert [(status.action_id, status.state) for status in watch.recent("o")] == [("b", "succeeded"), ("c", "pending")]
    assert watch.recent("nobody") == ()
    assert set(watch._recent) == {"o", "p"}


async def test_all_who_wait_are_woken() -> None:
    """Two requests wait for one action, one for another: its end wakes the two, with the action as it ended."""
    watch = ActionWatch(Published())
    watch.changed(action("a"))
    waits = [asyncio.create_task(watch.wait(action(name), 5)) for name in ("a", "a")]
    other = asyncio.create_task(watch.wait(action("b"), 5))
    await asyncio.sleep(0)  # let them begin to wait
    ended = action("a", state="failed")
    watch.changed(action("a", state="sent"))
    watch.ended(ended)

    assert await asyncio.gather(*waits) == [ended, ended]
    assert not other.done()
    watch.ended(action("b", state="expired"))
    await other
    assert watch._waiters == {}


@pytest.mark.parametrize(
    ("known", "seconds", "answer"),
    [
        (action(state="succeeded"), 5.0, action(state="succeeded")),
        (action(), 0.0, None),
        (action(), 0.001, None),
    ],
)
async def test_a_wait_that_ends_by_itself(known: ActionRecord, seconds: float, answer: ActionRecord | None) -> None:
    """An action that has ended is given back, one that does not end in time is None; no waiter stays."""
    watch = ActionWatch(Published())
    assert await watch.wait(known, seconds) == answer
    assert watch._waiters == {}


async def test_an_end_before_the_wait_is_noticed() -> None:
    """It ended between the decision and the wait: no waiting for what has happened already."""
    watch = ActionWatch(Published())
    watch.ended(action("a", state="succeeded"))
    async with asyncio.timeout(5):
        assert await watch.wait(action("a"), 3600) is None
