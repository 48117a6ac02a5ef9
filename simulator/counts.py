"""What a fleet counts about itself."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counts:
    """Totals of one fleet since its start."""

    connects: int = 0
    """Connections opened, the first of each agent included."""
    welcomes: int = 0
    takeovers: int = 0
    """Of the connects: with a new token while the old connection still stood."""
    closes: Counter[int] = field(default_factory=Counter)
    """Connections that ended, by close code."""
    refused: Counter[str] = field(default_factory=Counter)
    """Handshakes that failed, by HTTP status, or `unreachable`."""
    batches_produced: int = 0
    batches_sent: int = 0
    batches_resent: int = 0
    """Of the batches sent: not for the first time."""
    batches_acked: int = 0
    batches_dropped: int = 0
    bytes_sent: int = 0
    """Of batch frames."""
    metrics_produced: int = 0
    logs_produced: int = 0
    pulses: int = 0
    containers_recreated: int = 0
    """Containers that the seed replaced by others (churn)."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Rows that acks named or counted as not stored, by reason."""
    errors: Counter[str] = field(default_factory=Counter)
    """`error` messages received, by code."""
    unreadable_frames: int = 0
    """Frames from the server that were no message of the protocol."""
    actions_executed: int = 0
    actions_expired: int = 0
    actions_failed: int = 0
    actions_refused: int = 0
    """Commands passed over because too many are remembered already."""
    actions_repeated: int = 0
    """Commands that came again and were not carried out again."""
    ticks: int = 0
    skipped_ticks: int = 0
    """Ticks that were not produced because the fleet was more than an interval late."""
