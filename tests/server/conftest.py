"""A clock for what counts monotonic seconds."""

import asyncio
from collections.abc import Callable

import pytest


@pytest.fixture
async def pass_seconds(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the loop's clock on, for tests that do not wait: `pass_seconds(5)`."""
    loop = asyncio.get_running_loop()
    real, passed = loop.time, [0.0]
    monkeypatch.setattr(loop, "time", lambda: real() + passed[0])

    def move(seconds: float) -> None:
        passed[0] += seconds

    return move
