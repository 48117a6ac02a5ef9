"""What a fleet would send: counts, rates and volumes, from frames that are really made and encoded, and never sent."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from server.protocol.codec import encode
from server.protocol.messages import Batch
from simulator.host import FakeHost, share_blocks
from simulator.loglines import LogLines
from simulator.names import Names
from simulator.profiles import PROFILES, Shares
from simulator.scenario import Scenario
from simulator.scenario_format import seconds
from simulator.signals import key_of
from simulator.workload import HOUR_US, Workload

_LOOPED_HOSTS: Final = 2000
"""Of so many hosts at most the restarts are counted, and taken for all."""
_ENCODED_HOSTS, _ENCODED_SAMPLES, _ENCODED_TICKS = 64, 20_000, 96
"""So many hosts, fewer where they have many containers, have so many ticks of a day encoded."""
_T0_US: Final = 1_700_000_000_000_000
"""Any time will do: its digits count, not its value."""


class Description(Struct, frozen=True, kw_only=True):
    """What a fleet would send. Means of a day, but for what is a count; bytes are those of frames, without their headers."""

    seed: int
    agents: int
    first_host: str
    last_host: str
    containers: int
    """Of all agents together, at any time."""
    profiles: dict[str, int]
    """Containers of each."""
    interval_ms: float
    duration_seconds: float | None
    """None: until it is stopped."""
    messages_per_second: float
    message_bytes_mean: float
    message_bytes_max: int
    samples_per_second: float
    log_lines_per_second: float
    bytes_per_second: float
    samples_per_day: int
    log_lines_per_day: int
    bytes_per_day: int
    recreated_per_hour: float
    """Containers of the whole fleet that get a new id (churn)."""
    restarts_per_hour: float
    """Of containers that crash or run out of memory, over the whole fleet."""
    faults: tuple[str, ...]

    def lines(self) -> list[str]:
        """The same for people."""
        profiles = ", ".join(f"{count:,} {name}" for name, count in self.profiles.items())
        span = "until stopped" if self.duration_seconds is None else f"for {seconds(self.duration_seconds)}"
        every = seconds(self.interval_ms / 1000)
        sizes = f"{self.message_bytes_mean:,.0f} bytes each, {self.message_bytes_max:,} at most among those tried"
        return [
            f"hosts       {self.agents:,} ({self.first_host} to {self.last_host}), seed {self.seed}, {span}",
            f"containers  {self.containers:,}: {profiles}",
            f"messages    {self.messages_per_second:,.1f}/s, one of each host every {every}; {sizes}",
            f"samples     {self.samples_per_second:,.1f}/s, {self.samples_per_day:,} a day",
            f"log lines   {self.log_lines_per_second:,.1f}/s, {self.log_lines_per_day:,} a day",
            f"bytes       {bytes_text(self.bytes_per_second)}/s, {bytes_text(self.bytes_per_day)} a day",
            f"churn       {self.recreated_per_hour:,.1f} containers re-created an hour",
            f"restarts    {self.restarts_per_hour:,.1f} crashes an hour",
            f"faults      {'; '.join(self.faults) or 'none'}",
        ]


def workload_of(scenario: Scenario) -> Workload:
    """What the fleet of a scenario sends."""
    fleet = scenario.fleet
    return Workload(
        agents=fleet.agents,
        containers=fleet.containers,
        log_lines=fleet.log_lines,
        interval_us=fleet.interval_us,
        seed=scenario.seed,
        profiles=fleet.profiles,
        churn_per_hour=fleet.churn_per_hour,
    )


def describe(workload: Workload, duration_seconds: float | None = None, faults: Sequence[str] = ()) -> Description:
    """Describe what a fleet would send.

    Args:
        workload: of the fleet.
        duration_seconds: how long it would run; None: until it is stopped.
        faults: what would go wrong meanwhile, for people.
    """
    lines, names = LogLines(workload.seed), Names(workload.seed)

    def host(agent: int) -> FakeHost:
        return FakeHost(
            seed=workload.seed,
            agent=agent,
            containers=workload.containers,
            log_lines=workload.log_lines,
            t0_us=_T0_US,
            interval_us=workload.interval_us,
            lines=lines,
            names=names,
            profiles=workload.profiles,
            churn_ticks=workload.churn_ticks,
        )

    looped = [host(agent) for agent in _spread(workload, _LOOPED_HOSTS)]
    crashes = sum(1 / loop.period_ticks for each in looped for loop in each.lives.loops.values())
    encoded = [host(agent) for agent in _spread(workload, _most_encoded(workload))]
    batches = _batches(encoded, workload.interval_us)
    sizes = [len(encode(batch)) for batch in batches]
    messages = workload.agents * 1e6 / workload.interval_us
    samples = messages * sum(len(batch.metrics) for batch in batches) / len(batches)
    printed = messages * sum(len(batch.logs) for batch in batches) / len(batches)
    mean_bytes = sum(sizes) / len(sizes)
    ticks_per_hour = HOUR_US / workload.interval_us
    churned = workload.agents * workload.containers * ticks_per_hour
    return Description(
        seed=workload.seed,
        agents=workload.agents,
        first_host=encoded[0].host_id,
        last_host=host(workload.first_agent + workload.agents - 1).host_id,
        containers=workload.agents * workload.containers,
        profiles=_profiles(workload),
        interval_ms=workload.interval_us / 1000,
        duration_seconds=duration_seconds,
        messages_per_second=messages,
        message_bytes_mean=mean_bytes,
        message_bytes_max=max(sizes),
        samples_per_second=samples,
        log_lines_per_second=printed,
        bytes_per_second=messages * mean_bytes,
        samples_per_day=round(samples * 86_400),
        log_lines_per_day=round(printed * 86_400),
        bytes_per_day=round(messages * mean_bytes * 86_400),
        recreated_per_hour=churned / workload.churn_ticks if workload.churn_ticks else 0.0,
        restarts_per_hour=crashes * ticks_per_hour * workload.agents / len(looped),
        faults=tuple(faults),
    )


def _spread(workload: Workload, most: int) -> list[int]:
    """Numbers of some agents, evenly over the fleet."""
    count = min(most, workload.agents)
    return [workload.first_agent + i * workload.agents // count for i in range(count)]


def _most_encoded(workload: Workload) -> int:
    return max(1, min(_ENCODED_HOSTS, _ENCODED_SAMPLES // workload.containers))


def _batches(hosts: list[FakeHost], interval_us: int) -> list[Batch]:
    """Batches of ticks all over a day, from its beginning on."""
    share_blocks(hosts)
    day_ticks = max(1, 24 * HOUR_US // interval_us)
    ticks = sorted({(2 * i + 1) * day_ticks // (2 * _ENCODED_TICKS) for i in range(_ENCODED_TICKS)})
    return [
        Batch(seq=tick + 1, oldest=tick + 1, at=host.at(tick), metrics=host.metrics(tick), logs=host.logs(tick))
        for tick in ticks
        for host in hosts
    ]


def _profiles(workload: Workload) -> dict[str, int]:
    shares, counts = Shares(workload.profiles), [0] * len(PROFILES)
    for agent in range(workload.first_agent, workload.first_agent + workload.agents):
        numbers = shares.of_host(key_of(workload.seed, agent), workload.containers)
        for number in range(len(PROFILES)):
            counts[number] += numbers.count(number)
    return {str(profile): count for profile, count in zip(PROFILES, counts, strict=True) if count}


def bytes_text(count: float) -> str:
    """A volume with its unit: `8.8 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
