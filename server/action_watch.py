"""Who looks at actions: the live topic, its snapshot, and requests that wait for an end."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from server.action_records import ActionRecord, is_open
from server.protocol.messages import ActionStatus

RECENT = 100
"""Actions of an organisation that the live topic's snapshot shows."""


class ActionWatch:
    """Keeps the newest actions of each organisation, tells each change, and wakes who waits."""

    def __init__(self, publish: Callable[[str, ActionStatus], None]) -> None:
        self._publish = publish
        self._recent: dict[str, OrderedDict[str, ActionStatus]] = {}
        self._waiters: dict[str, set[asyncio.Future[ActionRecord]]] = {}

    def remember(self, action: ActionRecord) -> None:
        """Show it in the snapshot."""
        recent = self._recent.setdefault(action.org, OrderedDict())
        recent[action.action_id] = action.status()
        while len(recent) > RECENT:
            recent.popitem(last=False)

    def changed(self, action: ActionRecord) -> None:
        """Show it, and tell the live topic."""
        self.remember(action)
        self._publish(action.org, action.status())

    def ended(self, action: ActionRecord) -> None:
        """Show and tell it, and wake who waits for it."""
        self.changed(action)
        for future in self._waiters.get(action.action_id, ()):
            if not future.done():
                future.set_result(action)

    async def wait(self, action: ActionRecord, seconds: float) -> ActionRecord | None:
        """The action once it has ended; None: it did not within `seconds`, or did before the wait began."""
        if not action.is_open:
            return action
        if not seconds:
            return None
        recent = self._recent.get(action.org)
        shown = None if recent is None else recent.get(action.action_id)
        if shown is not None and not is_open(shown.state):
            return None  # it ended before we began to wait: the caller reads it
        future: asyncio.Future[ActionRecord] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(action.action_id, set())
        waiters.add(future)
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return None
        finally:
            waiters.discard(future)
            if not waiters:
                self._waiters.pop(action.action_id, None)

    def recent(self, org: str) -> tuple[ActionStatus, ...]:
        """The newest actions of an organisation, oldest first."""
        return tuple(self._recent[org].values()) if org in self._recent else ()
