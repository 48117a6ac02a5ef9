"""The receivers of a benchmark, in a process of their own: sockets that read, and neighbours that stop reading.

    python -m loadtests.bench.receivers PLAN OUT    (signs its token with SEATRIAL_JWT_SECRET)

PLAN and OUT are the JSON of `ReceiversPlan` and `Received`; OUT.ready appears when the measuring begins. Latency is taken
as the simulated browsers take it (`loadtests.watch`): from the time of the sample itself to its receipt, by the clock of the
server, of samples that are new.
"""

import asyncio
import gc
import os
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import picows
import uvloop

from loadtests.bench.live_listener import LiveListener, open_live
from loadtests.bench.receivers_plan import READY_SUFFIX, Received, ReceiversPlan
from loadtests.bench.stalled import FILL_SECONDS, STALL_SECONDS, Stalls, stall_for_ever
from loadtests.measure import ClockOffset, Latency, now_us
from loadtests.tokens import user_token
from server.protocol.codec import FrameError, decode_live_event
from server.protocol.messages import Error, Gap, HeartbeatEcho, LiveHeartbeat, Metrics, Sample, Snapshot

DIALS_AT_ONCE = 50
BEAT_SECONDS = 1.0
LAG_SECONDS = 0.01
"""How often the event loop is looked at."""


class Tally:
    """What all readers got while it is measured."""

    def __init__(self) -> None:
        self.measuring = False
        self.clock = ClockOffset()
        self.latency, self.lag = Latency(), Latency()
        self.deliveries = self.skipped = self.dropped_lines = 0
        self.failures: Counter[str] = Counter()
        self.closes: Counter[str] = Counter()


class Reader(LiveListener):
    """A socket that reads."""

    def __init__(self, topics: list[str], interval_us: int, tally: Tally) -> None:
        super().__init__(topics)
        self._interval_us = interval_us
        self._tally = tally
        self._newest: dict[str, int] = {}
        """Time of the newest sample, per container."""

    def take(self, data: bytes) -> None:
        """Count a message, and what is wrong with it."""
        received_us = now_us()
        tally = self._tally
        try:
            event = decode_live_event(data)
        except FrameError:
            tally.failures["bad_frame"] += 1
            return
        match event:
            case Metrics():
                for sample in event.samples:
                    self._sample(sample, received_us)
            case Snapshot():
                for sample in event.samples:
                    self._newest[sample.container] = max(sample.at, self._newest.get(sample.container, 0))
                self.answer(event.topic)
            case HeartbeatEcho():
                tally.clock.echo(sent_us=event.at, server_us=event.server_time, received_us=received_us)
            case Gap(topic=topic) if topic.startswith("logs:"):
                tally.dropped_lines += event.dropped * tally.measuring
            case Error():
                tally.failures["error"] += 1
                self.fail(f"the server answered {event.code}: {event.message}")

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """A reader has no reason to end."""
        super().on_ws_disconnected(transport)
        self._tally.closes[str(self._code)] += 1

    def _sample(self, sample: Sample, received_us: int) -> None:
        tally = self._tally
        newest = self._newest.get(sample.container, 0)
        if sample.at < newest:
            tally.failures["time_back"] += 1
        elif sample.at > newest:
            self._newest[sample.container] = sample.at
            if tally.measuring:
                tally.deliveries += 1
                tally.latency.record_us(received_us + tally.clock.microseconds - sample.at)
                if newest:
                    tally.skipped += max(0, round((sample.at - newest) / self._interval_us) - 1)


async def receive(plan: ReceiversPlan, ready: Path) -> Received:
    """Dial, warm up, measure, leave.

    Raises:
        OSError, picows.WSError, TimeoutError: a reader could not be served.
    """
    tally, stalls = Tally(), Stalls()
    token = user_token(os.environ, "bench-receiver")
    readers = [Reader(topics, plan.interval_us, tally) for topics in plan.readers]
    await _dial(readers, plan.url, token)
    # Spread over a stall, so that they do not come back together.
    apart = min(FILL_SECONDS + STALL_SECONDS, plan.warm_up_seconds) / max(1, len(plan.stalled))
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(stall_for_ever(neighbour, plan.url, token, stalls, number * apart))
            for number, neighbour in enumerate(plan.stalled)
        ]
        tasks += [group.create_task(_beat(readers)), group.create_task(_watch_lag(tally))]
        await asyncio.sleep(plan.warm_up_seconds)
        # Sockets live as long as the measurement: looking through them again and again would be told as latency.
        gc.collect()
        gc.freeze()
        await asyncio.to_thread(ready.touch)
        tally.measuring, cpu, begun = True, time.process_time(), time.monotonic()
        await asyncio.sleep(plan.seconds)
        tally.measuring, cpu, took = False, time.process_time() - cpu, time.monotonic() - begun
        closes = dict(tally.closes)
        for task in tasks:
            task.cancel()
    for reader in readers:
        reader.leave()
    return Received(
        seconds=took, cpu_seconds=cpu, latency=tally.latency.encode(), lag=tally.lag.encode(),
        deliveries=tally.deliveries, skipped=tally.skipped, dropped_lines=tally.dropped_lines,
        failures=dict(tally.failures), reader_closes=closes, stalls=stalls.count, stall_ends=dict(stalls.ends),
    )  # fmt: skip


async def _dial(readers: list[Reader], url: str, token: str) -> None:
    gate = asyncio.Semaphore(DIALS_AT_ONCE)

    async def dial(reader: Reader) -> None:
        async with gate:
            await open_live(reader, url, token)

    async with asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(dial(reader))


async def _beat(readers: list[Reader]) -> None:
    """Learn the server's clock from one reader after the other."""
    while True:
        for reader in readers:
            reader.send(LiveHeartbeat(at=now_us()))
            await asyncio.sleep(BEAT_SECONDS)


async def _watch_lag(tally: Tally) -> None:
    """Look at how late timers fire: whatever keeps them waiting keeps what was received waiting too."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_SECONDS
        await asyncio.sleep(LAG_SECONDS)
        if tally.measuring:
            tally.lag.record_us(max(1, round((loop.time() - due) * 1e6)))


def main() -> None:
    """Do what PLAN says, and write OUT."""
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ReceiversPlan)
    out = Path(sys.argv[2])
    received = uvloop.run(receive(plan, out.with_suffix(READY_SUFFIX)))
    out.write_bytes(msgspec.json.encode(received))


if __name__ == "__main__":
    main()
