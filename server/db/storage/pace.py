"""How hard a removal may press: the share of time that it works, the rest is left to those who write."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Pace:
    """A duty cycle: after each step it rests as long as it takes for the steps to have had their share of the time.

    Args:
        duty: share of time for steps, above 0 and up to 1; 1: never rests.
    """

    def __init__(self, duty: float) -> None:
        self._rest_per_work = (1 - duty) / duty

    @asynccontextmanager
    async def step(self) -> AsyncIterator[None]:
        """Work inside; the rest follows at once. A step that fails is not rested after."""
        started = time.monotonic()
        yield
        await asyncio.sleep((time.monotonic() - started) * self._rest_per_work)
