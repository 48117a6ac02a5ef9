"""What a fleet sends, checked before anything starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from simulator.errors import PlanError
from simulator.lives import MIN_CHURN_TICKS, most_churn_per_hour
from simulator.profiles import DEFAULT_MIX, MixError, checked_mix, mix_text

MIN_INTERVAL_US = 100_000
HOUR_US = 3_600_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a fleet sends, wherever it sends it: all that its rows are a function of. Durations in microseconds.

    Raises:
        PlanError: on creation.
    """

    agents: int = 100
    """Of the whole fleet."""
    first_agent: int = 1
    """Number of the first agent of the whole fleet: a second fleet goes on where the first one ends."""
    containers: int = 5
    log_lines: int = 1
    """Per agent and interval; stack traces and bursts come on top."""
    interval_us: int = 1_000_000
    seed: int = 1
    profiles: Mapping[str, int] = field(default_factory=lambda: DEFAULT_MIX)
    """Weights of what the containers do."""
    churn_per_hour: float = 0.0
    """Containers of an agent that are re-created in an hour."""

    def __post_init__(self) -> None:
        at_least(self, agents=1, first_agent=1, containers=1, log_lines=0, seed=0)
        if self.interval_us < MIN_INTERVAL_US:
            raise PlanError("interval", f"{self.interval_us / 1000:g}ms", "at least 100ms")
        try:
            checked_mix(self.profiles)
        except MixError as error:
            raise PlanError("profiles", mix_text(self.profiles) or "nothing", str(error)) from None
        most = most_churn_per_hour(self.containers, self.interval_us)
        if not 0 <= self.churn_per_hour <= most:
            expected = f"0 to {most:g}, so that a container lives for {MIN_CHURN_TICKS} intervals on average"
            raise PlanError("churn-per-hour", f"{self.churn_per_hour:g}", expected)

    @property
    def churn_ticks(self) -> int:
        """Ticks in which each container is re-created once; 0: it never is."""
        if not self.churn_per_hour:
            return 0
        return max(MIN_CHURN_TICKS, round(self.containers * HOUR_US / (self.interval_us * self.churn_per_hour)))


def at_least(workload: object, **least: int) -> None:
    """Check that fields are not below what each is given here.

    Raises:
        PlanError: one is.
    """
    for name, lowest in least.items():
        value = getattr(workload, name)
        if value < lowest:
            raise PlanError(name, value, f"at least {lowest}")
