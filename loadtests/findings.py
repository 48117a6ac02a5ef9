"""What a verification found: counts, and the first few in full."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

EXAMPLES = 20
"""Findings that are told in full; the others are counted."""


class Finding(NamedTuple):
    """A row that is not as it must be."""

    kind: str
    """missing, foreign or altered."""
    table: str
    row: str
    """Which one, and what is wrong with it."""


@dataclass(slots=True)
class Findings:
    """What a verification found. Counts are rows."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[Finding] = field(default_factory=list)
    verified: int = 0
    """Acknowledged rows that were compared with what is stored."""
    acked: int = 0
    """Acknowledged rows, whether they could be compared in time or not."""
    stored: int = 0
    """Rows read from the database."""
    unverified: int = 0
    """Of those, rows that a ledger fell silent too early to judge: neither foreign nor passed."""

    @property
    def clean(self) -> bool:
        """Nothing missing, foreign or altered."""
        return not any(self.counts.values())

    @property
    def verified_fraction(self) -> float:
        """Of the acknowledged and the unverified rows, how many were compared: 0 to 1.

        0 if none was acknowledged: that proves nothing.
        """
        return self.verified / (self.acked + self.unverified) if self.acked else 0.0

    @property
    def stored_acked(self) -> int:
        """Acknowledged rows that were not found missing."""
        return self.acked - self.counts["missing"]

    def merge(self, other: "Findings") -> None:
        """Add what another verification found."""
        self.counts += other.counts
        self.examples += other.examples[: EXAMPLES - len(self.examples)]
        self.verified += other.verified
        self.acked += other.acked
        self.stored += other.stored
        self.unverified += other.unverified

    @property
    def room(self) -> int:
        """How many more are told in full."""
        return EXAMPLES - len(self.examples)

    def add(self, kind: str, table: str, row: str) -> None:
        """Count a finding, and keep it if there are few yet."""
        self.counts[kind] += 1
        if self.room:
            self.examples.append(Finding(kind, table, row))
