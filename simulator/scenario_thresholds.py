"""The thresholds of a scenario, and how their keys are named."""

import difflib
import re

from msgspec import Struct

from simulator.scenario_format import OPERATORS, PHASES, THRESHOLD_KEYS, unknown

NO_THRESHOLD = "none"
"""As an override of a threshold, or in a file that extends one with it: take it out of the run."""
_METRIC_STAT = re.compile(r"[a-z0-9_]+\.[a-z0-9]+")


class Threshold(Struct, frozen=True, kw_only=True):
    """A bound on one statistic of one metric."""

    metric: str
    stat: str
    op: str
    limit: float
    phase: str = ""
    """Of `PHASES`; empty: the whole run."""
    abort: bool = False
    """Whether the run ends when it is broken."""
    grace_seconds: float = 0.0
    """How long it must be broken without a break before the run ends; 0 without `abort`."""

    @property
    def key(self) -> str:
        """The name as it stands in a scenario: `ack_latency_ms.p99`, `after.ack_latency_ms.p99`."""
        return ".".join(filter(None, (self.phase, self.metric, self.stat)))

    @property
    def bound(self) -> str:
        """The bound as it stands in a scenario: `< 1000`."""
        return f"{self.op} {self.limit:.15g}"

    def holds(self, value: float) -> bool:
        """Whether `value` keeps the bound. NaN keeps none."""
        return OPERATORS[self.op](value, self.limit)


def threshold_parts(path: str) -> tuple[str, str]:
    """Name and key of a part of a threshold: `after.ack_latency_ms.p99`, `bound`.

    Raises:
        ValueError: it names no threshold.
    """
    words = path.split(".")
    phase = words[:1] if words[0] in PHASES else []
    name, part = ".".join(words[len(phase) : len(phase) + 2]), ".".join(words[len(phase) + 2 :])
    if not _METRIC_STAT.fullmatch(name):
        raise ValueError("expected a metric and a statistic, such as ack_latency_ms.p99, or a phase before them")
    if part and part not in THRESHOLD_KEYS:
        strange = not phase and len(words) == 3 and not difflib.get_close_matches(part, THRESHOLD_KEYS, n=1)
        raise ValueError(unknown(words[0], PHASES, "phase") if strange else unknown(part, THRESHOLD_KEYS, "key"))
    return ".".join((*phase, name)), part or "bound"


def threshold_name(key: str) -> str:
    """The name of the threshold of which a scenario's key is; empty: of none."""
    if not key.startswith("thresholds."):
        return ""
    try:
        return threshold_parts(key.removeprefix("thresholds."))[0]
    except ValueError:
        return ""


def threshold_part(key: str) -> str:
    """Which of its keys that is: `bound`, for one that is written as a text."""
    return threshold_parts(key.removeprefix("thresholds."))[1]
