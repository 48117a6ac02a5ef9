"""A socket that follows a script, in the place of a WebSocket."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from server.protocol.close_codes import CloseCode
from server.protocol.codec import decode_agent_command
from server.protocol.messages import Ack

DEADLINE_SECONDS = 20.0


class ScriptedSocket:
    """Takes as many frames as it is told to, remembers them and how it was closed."""

    def __init__(self, *, takes: int | None = None) -> None:
        self.takes = takes
        """Frames it still takes; None: all."""
        self.frames: list[bytes] = []
        self.closed: tuple[CloseCode, str] | None = None
        self.round_trip_seconds = 0.0
        self._changed = asyncio.Event()

    def try_send(self, frame: bytes) -> bool:
        """Take a frame, if the script allows."""
        if self.closed is not None or self.takes == 0:
            return False
        if self.takes is not None:
            self.takes -= 1
        self.frames.append(frame)
        self._changed.set()
        return True

    def close(self, code: CloseCode, reason: str = "") -> None:
        """Remember the first close."""
        self.closed = self.closed or (code, reason)
        self._changed.set()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What was sent, as plain JSON."""
        return [json.loads(frame) for frame in self.frames]

    @property
    def acks(self) -> list[Ack]:
        """The acks among what an agent was sent."""
        commands = [decode_agent_command(frame) for frame in self.frames]
        return [command for command in commands if isinstance(command, Ack)]

    async def acked(self, seq: int) -> Ack:
        """Wait for the ack of `seq`, or of more.

        Raises:
            TimeoutError: it did not come.
        """
        await self.until(lambda: any(ack.seq >= seq for ack in self.acks))
        return next(ack for ack in self.acks if ack.seq >= seq)

    async def until(self, condition: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until what was sent, or the close, fulfils a condition.

        Raises:
            TimeoutError: it did not in time.
        """
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


async def eventually(condition: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> None:
    """Look until a condition holds that nothing announces.

    Raises:
        TimeoutError: it did not in time.
    """
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
