"""Other programs that do the fleet's sends, beside which `bench simulator` puts it: Locust and Artillery."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import msgspec

from loadtests.children import Child, python
from loadtests.stage import outer_environment
from server.protocol.codec import encode
from server.protocol.messages import AGENT_SUBPROTOCOL, Batch
from simulator.host import FakeHost
from simulator.loglines import LogLines
from simulator.names import Names

_FIRST_TICK = 100
"""The payload is a batch from the midst of a run: counters have as many digits as they mostly have."""
_PROCESSOR = """\
exports.stamp = (context, events, done) => {
  context.vars.at = Date.now() * 1000;
  return done();
};
"""
"""Sets what a batch has of its own beside its seq."""
_THINK = "950ms"
"""Between an ack, which comes 50 ms after its batch, and the next batch."""


class Peer(NamedTuple):
    """A program to compare with."""

    name: str
    child: Child | None
    """Not started yet; None: it is not here."""
    note: str
    """What it is, or why it is not here."""


def frame(containers: int, log_lines: int, seed: int) -> bytes:
    """A batch as the fleet sends it."""
    at_us = 1_800_000_000_000_000
    host = FakeHost(
        seed=seed, agent=1, containers=containers, log_lines=log_lines, t0_us=at_us, interval_us=1_000_000,
        lines=LogLines(seed), names=Names(seed),
    )  # fmt: skip
    return encode(
        Batch(seq=1, oldest=1, at=host.at(_FIRST_TICK), metrics=host.metrics(_FIRST_TICK), logs=host.logs(_FIRST_TICK))
    )


def locust(url: str, payload: bytes, users: int, ramp_seconds: float, directory: Path) -> Peer:
    """Locust users, in one process, that send a batch a second each."""
    if find_spec("locust") is None:
        return Peer("locust", None, "skipped: Locust is not installed (the extra `load`)")
    file = directory / "locust-frame.json"
    file.write_bytes(payload)
    script = Path(__file__).with_name("locust_senders.py")
    command = python(
        "locust", "-f", str(script), "--headless", "--only-summary", "--host", url, "--users", str(users),
        "--spawn-rate", f"{max(1.0, users / ramp_seconds):g}", "--stop-timeout", "1",
    )  # fmt: skip
    child = Child("locust", command, outer_environment() | {"SEATRIAL_FRAME": str(file)}, directory / "locust.log")
    return Peer("locust", child, f"{users} users, websocket-client under gevent, json.dumps for each batch")


def artillery(
    url: str, payload: bytes, users: int, ramp_seconds: float, seconds: float, program: str | None, directory: Path
) -> Peer:
    """Artillery's virtual users that send a batch a second each, with seq and time of its own, and check its ack.

    Args:
        url: of the sink.
        payload: the batch.
        users: how many.
        ramp_seconds: over which they come.
        seconds: each of them sends at least so long.
        program: the command; None: the one on PATH.
        directory: gets its script and log.
    """
    found = shutil.which("artillery") if program is None else program
    if found is None or shutil.which("node") is None:
        missing = "node" if shutil.which("node") is None else "artillery"
        return Peer("artillery", None, f"skipped: no {missing} on PATH (npm install -g artillery, or --artillery PATH)")
    (directory / "artillery.cjs").write_text(_PROCESSOR)
    batch = msgspec.json.decode(payload) | {"seq": "{{ $loopCount }}", "at": "{{ at }}"}
    answer = {"json": "$.seq", "value": "{{ $loopCount }}"}
    sends = [{"function": "stamp"}, {"send": {"payload": batch, "match": answer}}, {"think": _THINK}]
    flow = [{"loop": sends, "count": round(seconds)}]
    script = {
        "config": {
            "target": url,
            "processor": str(directory / "artillery.cjs"),
            "phases": [{"duration": max(1, round(ramp_seconds)), "arrivalCount": users}],
            "ws": {"subprotocols": [AGENT_SUBPROTOCOL]},
        },
        "scenarios": [{"engine": "ws", "flow": flow}],
    }
    file = directory / "artillery.json"
    file.write_bytes(msgspec.json.encode(script))
    environ = outer_environment() | {"PATH": os.environ["PATH"], "ARTILLERY_DISABLE_TELEMETRY": "true"}
    child = Child("artillery", [found, "run", "--quiet", str(file)], environ, directory / "artillery.log")
    return Peer("artillery", child, f"{users} virtual users, its own template for each batch")
