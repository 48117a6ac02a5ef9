"""What a replay would send: counts, rates and volumes of the recorded batches, as each copy encodes them."""

from collections.abc import Sequence

from msgspec import Struct

from server.protocol.codec import encode
from server.protocol.messages import Batch
from simulator.describe import bytes_text
from simulator.host import host_id
from simulator.recorded_agents import Recording
from simulator.replay import ReplayHost
from simulator.scenario_format import seconds

_T0_US = 1_700_000_000_000_000
"""Any time will do: its digits count, not its value."""
_DAY_SECONDS = 86_400


class ReplayDescription(Struct, frozen=True, kw_only=True):
    """What a replay would send. Rates are means of a round; bytes are those of frames, without their headers."""

    recording: str
    """Its file."""
    seed: int
    agents: int
    first_host: str
    last_host: str
    times: int
    """How many hosts send what each recorded agent sent."""
    recorded_agents: int
    round_seconds: float
    """After which the recording begins anew."""
    round_messages: int
    """Of all hosts together in a round, as are the next two."""
    round_samples: int
    round_log_lines: int
    containers: int
    """Of all hosts together."""
    duration_seconds: float | None
    """None: until it is stopped."""
    messages_per_second: float
    message_bytes_mean: float
    message_bytes_max: int
    samples_per_second: float
    log_lines_per_second: float
    bytes_per_second: float
    samples_per_day: int
    """If it went on for a day, as are the next two."""
    log_lines_per_day: int
    bytes_per_day: int
    faults: tuple[str, ...]

    def lines(self) -> list[str]:
        """The same for people."""
        span = "until stopped" if self.duration_seconds is None else f"for {seconds(self.duration_seconds)}"
        sizes = f"{self.message_bytes_mean:,.0f} bytes each, {self.message_bytes_max:,} at most"
        sent = f"{self.round_messages:,} messages, {self.round_samples:,} samples, {self.round_log_lines:,} log lines"
        return [
            f"recording   {self.recording}: {self.recorded_agents:,} agents, each sent {self.times:,} times",
            f"hosts       {self.agents:,} ({self.first_host} to {self.last_host}), seed {self.seed}, {span}",
            f"containers  {self.containers:,}",
            f"a round     of {seconds(self.round_seconds)}: {sent}",
            f"messages    {self.messages_per_second:,.1f}/s; {sizes}",
            f"samples     {self.samples_per_second:,.1f}/s, {self.samples_per_day:,} a day",
            f"log lines   {self.log_lines_per_second:,.1f}/s, {self.log_lines_per_day:,} a day",
            f"bytes       {bytes_text(self.bytes_per_second)}/s, {bytes_text(self.bytes_per_day)} a day",
            f"faults      {'; '.join(self.faults) or 'none'}",
        ]


def describe_replay(
    recording: Recording,
    duration_seconds: float | None = None,
    faults: Sequence[str] = (),
    *,
    agents: int,
    first_agent: int = 1,
    seed: int = 1,
) -> ReplayDescription:
    """Describe what copies of a recording would send. Every batch of it is encoded once.

    Args:
        recording: of which they are copies.
        duration_seconds: how long it would go on; None: until it is stopped.
        faults: what would go wrong meanwhile, for people.
        agents: hosts, a multiple of the recorded agents.
        first_agent: number of the first host.
        seed: decides the names.
    """
    recorded = recording.agents
    times = agents // len(recorded)
    sizes = [
        len(
            encode(
                Batch(seq=tick + 1, oldest=tick + 1, at=host.at(tick), metrics=host.metrics(tick), logs=host.logs(tick))
            )
        )
        for host in (
            ReplayHost(recording, seed=seed, agent=first_agent + place, t0_us=_T0_US) for place in range(len(recorded))
        )
        for tick in range(host.round_ticks)
    ]
    messages, volume = times * len(sizes), times * sum(sizes)
    samples = times * sum(len(batch.metrics) for agent in recorded for batch in agent.batches)
    printed = times * sum(len(batch.logs) for agent in recorded for batch in agent.batches)
    round_seconds = recording.period_us / 1e6
    return ReplayDescription(
        recording=str(recording.path),
        seed=seed,
        agents=agents,
        first_host=host_id(first_agent),
        last_host=host_id(first_agent + agents - 1),
        times=times,
        recorded_agents=len(recorded),
        round_seconds=round_seconds,
        round_messages=messages,
        round_samples=samples,
        round_log_lines=printed,
        containers=times * sum(len(agent.containers) for agent in recorded),
        duration_seconds=duration_seconds,
        messages_per_second=messages / round_seconds,
        message_bytes_mean=sum(sizes) / len(sizes),
        message_bytes_max=max(sizes),
        samples_per_second=samples / round_seconds,
        log_lines_per_second=printed / round_seconds,
        bytes_per_second=volume / round_seconds,
        samples_per_day=round(samples / round_seconds * _DAY_SECONDS),
        log_lines_per_day=round(printed / round_seconds * _DAY_SECONDS),
        bytes_per_day=round(volume / round_seconds * _DAY_SECONDS),
        faults=tuple(faults),
    )
