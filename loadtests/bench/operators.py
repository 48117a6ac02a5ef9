"""The operators of `bench actions`, in a process of their own: start, stop and restart at a fixed rate, whatever comes back.

    python -m loadtests.bench.operators PLAN OUT    (signs its tokens with SEATRIAL_JWT_SECRET)

PLAN and OUT are the JSON of `OperatorsPlan` and `Attempted`; every attempt is appended to the plan's file too. Each attempt
has its own intended time and is made then, however many are under way, so a slow server cannot slow the load down unseen.
"""

import asyncio
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import uvloop
from msgspec import Struct

from loadtests.api import Action, Answer, Identity
from loadtests.attempts import FINAL_STATES, Attempt, AttemptLog, new_reason
from loadtests.bench.rest import Rest
from loadtests.measure import Latency, now_us
from server.protocol.messages import ActionKind
from simulator.host import command_seconds

KINDS: tuple[ActionKind, ...] = ("restart", "stop", "start")
"""What each container goes through, in turn; neighbours of the list are a step apart, so that all kinds come at all times."""
WAIT_SECONDS = 30
"""How long the server is asked to wait for the outcome: the longest that it takes."""
EXPIRES_SECONDS = 20
ANSWER_SECONDS = WAIT_SECONDS + 10.0
_BEGIN_SECONDS = 0.2


class Target(Struct, kw_only=True):
    """A container to act on."""

    container: str
    agent: int
    """Number of the simulated host, which decides how long it takes for a command."""


class OperatorsPlan(Struct, kw_only=True):
    """What shall be attempted."""

    url: str
    """The server's http address."""
    targets: list[Target]
    per_second: float
    seconds: float
    run: str
    """With which the attempts' reasons begin."""
    attempts: str
    """File to which every attempt is appended."""


class Attempted(Struct, kw_only=True):
    """What became of it."""

    attempts: int
    seconds: float
    cpu_seconds: float
    """Of the operators' process."""
    round_trip: str
    """From an attempt's intended time to the answer that tells its outcome; what did not succeed counts until it was given up.
    An HDR histogram in microseconds, base64."""
    server_share: str
    """The same less the time that the simulated host takes for the command."""
    late: str
    """From an attempt's intended time to its making: how late the operators were themselves."""
    outcomes: dict[str, int]
    """By state of the action, or `HTTP <status> <title>`, or `no answer`."""


class Operators:
    """Makes the attempts of a plan, in the name of one operator."""

    def __init__(self, plan: OperatorsPlan, log: AttemptLog) -> None:
        self._plan = plan
        self._log = log
        self._rest = Rest(plan.url)
        self._identity = Identity("bench-operator", "operator")
        self._round_trip, self._server_share, self._late = Latency(), Latency(), Latency()
        self._outcomes: Counter[str] = Counter()

    async def work(self) -> Attempted:
        """Make every attempt at its time, and wait for the last outcome; `ANSWER_SECONDS` bound that."""
        plan = self._plan
        attempts = max(1, round(plan.per_second * plan.seconds))
        first_us = now_us() + round(_BEGIN_SECONDS * 1e6)
        cpu, begun = time.process_time(), time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(attempts):
                    due_us = first_us + round(number / plan.per_second * 1e6)
                    if (left_us := due_us - now_us()) > 0:
                        await asyncio.sleep(left_us / 1e6)
                    group.create_task(self._attempt(number, due_us))
        finally:
            self._rest.close()
        return Attempted(
            attempts=attempts, seconds=time.monotonic() - begun, cpu_seconds=time.process_time() - cpu,
            round_trip=self._round_trip.encode(), server_share=self._server_share.encode(), late=self._late.encode(),
            outcomes=dict(self._outcomes),
        )  # fmt: skip

    async def _attempt(self, number: int, due_us: int) -> None:
        turn, index = divmod(number, len(self._plan.targets))
        target = self._plan.targets[index]
        attempt = Attempt(
            reason=new_reason(self._plan.run), at_us=due_us, actor=self._identity.subject, role=self._identity.role,
            kind=KINDS[(turn + index) % len(KINDS)], container=target.container, expected="accepted", sends=1,
        )  # fmt: skip
        self._log.write(attempt)
        self._late.record_us(now_us() - due_us)
        answer = await self._ask(attempt)
        took_us = now_us() - due_us
        attempt.status = answer.status
        if attempt.accepted:
            action = msgspec.json.decode(answer.body, type=Action)
            attempt.action_id, attempt.state = action.action_id, action.state
        else:
            attempt.title = answer.problem().title
        attempt.over = attempt.denied or attempt.state in FINAL_STATES
        self._log.write(attempt)
        self._outcomes[_outcome(attempt)] += 1
        host_us = round(command_seconds(target.agent, attempt.action_id) * 1e6) if attempt.state == "succeeded" else 0
        self._round_trip.record_us(took_us)
        self._server_share.record_us(took_us - host_us)

    async def _ask(self, attempt: Attempt) -> Answer:
        asked = {"kind": attempt.kind, "reason": attempt.reason, "expires_in_seconds": EXPIRES_SECONDS}
        return await self._rest.request(
            "POST", f"/api/containers/{attempt.container}/actions?wait_seconds={WAIT_SECONDS}",
            headers=self._identity.header(), body=msgspec.json.encode(asked), timeout_seconds=ANSWER_SECONDS,
        )  # fmt: skip


def _outcome(attempt: Attempt) -> str:
    if attempt.accepted:
        return attempt.state
    return f"HTTP {attempt.status} {attempt.title}".rstrip() if attempt.status else "no answer"


def main() -> None:
    """Do what PLAN says, and write OUT."""
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=OperatorsPlan)
    log = AttemptLog(Path(plan.attempts))
    try:
        attempted = uvloop.run(Operators(plan, log).work())
    finally:
        log.close()
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(attempted))


if __name__ == "__main__":
    main()
