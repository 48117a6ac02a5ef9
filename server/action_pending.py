"""Actions that wait for their agent, and hosts whose actions may go."""

import asyncio
from collections.abc import Iterable

from server.action_records import ActionRecord

HostKey = tuple[str, str]
"""(organisation, host)."""


class PendingActions:
    """By host, in the order of their coming; bounded by `max_open_actions` an organisation. No host without an action."""

    def __init__(self) -> None:
        self._waiting: dict[HostKey, dict[str, ActionRecord]] = {}
        self._due: set[HostKey] = set()
        self._something_due = asyncio.Event()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def keep(self, action: ActionRecord) -> None:
        """It waits for its agent, if it did not before."""
        self._waiting.setdefault((action.org, action.host), {}).setdefault(action.action_id, action)

    def forget(self, actions: Iterable[ActionRecord]) -> None:
        """They wait no longer, if they did."""
        for action in actions:
            key = (action.org, action.host)
            waiting = self._waiting.get(key, {})
            waiting.pop(action.action_id, None)
            if not waiting:
                self._waiting.pop(key, None)

    def of(self, key: HostKey) -> Iterable[ActionRecord]:
        """What waits for the agent of a host."""
        return self._waiting.get(key, {}).values()

    def make_due(self, key: HostKey) -> None:
        """What waits for this agent may go."""
        if key in self._waiting:
            self._due.add(key)
            self._something_due.set()

    def make_all_due(self) -> None:
        """All that waits may go."""
        for key in self._waiting:
            self.make_due(key)

    def take_due(self) -> set[HostKey]:
        """Hosts whose actions may go; the caller sends what it can, or gives the hosts back."""
        due, self._due = self._due, set()
        return due

    def give_back(self, due: set[HostKey]) -> None:
        """They are due still: nothing could be sent."""
        self._due |= due

    async def wait(self) -> None:
        """Return once something became due, or is to be tried again, since the last call."""
        await self._something_due.wait()
        self._something_due.clear()

    def try_again(self) -> None:
        """What is due could not be sent: let the next `wait` return."""
        self._something_due.set()
