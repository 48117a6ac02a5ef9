"""Tasks that go on beside the load of a run."""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, Self


class Background:
    """Tasks beside the load, all ended with it; the first that fails ends the load too."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Own a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task

    async def first_of(self, work: Awaitable[int], timeout_seconds: float) -> int | None:
        """The result of `work`; None: not in time.

        Raises:
            Exception: what a task raised that failed meanwhile.
        """
        waited = asyncio.ensure_future(work)
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        try:
            while not waited.done():
                left = deadline - asyncio.get_running_loop().time()
                running = {task for task in self._tasks if not task.done()}
                done, _ = await asyncio.wait(
                    {waited, *running}, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    return None
                for task in done - {waited}:
                    task.result()
            return int(waited.result())
        finally:
            waited.cancel()
