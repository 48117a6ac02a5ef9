"""Results that agents reported and that are not stored yet, within a bound for each organisation."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from itertools import islice

from server.action_records import Result

MAX_RESULTS = 1_000
"""Results of one organisation waiting for the database; past it they are dropped, and the agents repeat them when they
connect again. Of one: who reports what nobody asked for fills only its own place."""


class ResultBuffer:
    """The newest result of each action, oldest action first, until it is stored."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, str, str], Result] = {}
        self._of_org: Counter[str] = Counter()
        self._some = asyncio.Event()

    def __len__(self) -> int:
        return len(self._results)

    def put(self, result: Result) -> bool:
        """Keep a result, in place of an earlier one of the same action; False: its organisation's place is full."""
        key = _key(result)
        if key not in self._results:
            if self._of_org[result.org] >= MAX_RESULTS:
                return False
            self._of_org[result.org] += 1
        self._results[key] = result
        self._some.set()
        return True

    async def wait(self) -> None:
        """Return once something was put, or is to be tried again, since the last call."""
        await self._some.wait()
        self._some.clear()

    def try_again(self) -> None:
        """What is here could not be stored: let the next `wait` return."""
        self._some.set()

    def oldest(self, count: int) -> list[Result]:
        """The first `count` of them; they stay until they are removed."""
        return list(islice(self._results.values(), count))

    def remove(self, results: Iterable[Result]) -> None:
        """Let go of what is stored; a newer result of the same action stays."""
        for result in results:
            key = _key(result)
            if self._results.get(key) is not result:
                continue
            del self._results[key]
            self._of_org[result.org] -= 1
            if not self._of_org[result.org]:
                del self._of_org[result.org]


def _key(result: Result) -> tuple[str, str, str]:
    return (result.org, result.host, result.action_id)
