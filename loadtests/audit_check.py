"""Every attempt of a run against the audit log: exactly one row each, that tells what the user saw and what took place.

- missing: attempts without a row.
- duplicate: rows beyond the one of their attempt, and rows of the run that belong to no attempt.
- wrong: rows with another actor, role, action, target or result, or that what the fleet carried out contradicts.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlencode

from loadtests.answers import AuditEntry, AuditPage
from loadtests.asked import AskError, ask
from loadtests.attempts import FINAL_STATES, Attempt

EXAMPLES = 20
"""Findings that are told in full; the others are counted."""
PAGE = 1000


class AuditCheckError(Exception):
    """The audit log cannot be read."""


class AuditFinding(NamedTuple):
    """An attempt or a row that is not as it must be."""

    kind: str
    """missing, duplicate, wrong or executed_twice."""
    about: str
    """Which one, and what is wrong with it."""


@dataclass(slots=True)
class AuditFindings:
    """What the check found. Counts are rows, and executions of actions."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[AuditFinding] = field(default_factory=list)
    attempts: int = 0
    entries: int = 0
    """Rows of this run."""

    def add(self, kind: str, about: str, count: int = 1) -> None:
        """Count findings, and keep one if there are few yet."""
        self.counts[kind] += count
        if len(self.examples) < EXAMPLES:
            self.examples.append(AuditFinding(kind, about))

    def measured(self) -> dict[str, float]:
        """By the names of the catalogue."""
        return {f"audit_{kind}": float(self.counts[kind]) for kind in ("missing", "duplicate", "wrong")} | {
            "actions_executed_twice": float(self.counts["executed_twice"])
        }


def compare(
    run: str, attempts: Mapping[str, Attempt], entries: Iterable[AuditEntry], executed: Mapping[str, int]
) -> AuditFindings:
    """Hold the audit log against what was attempted and what was carried out.

    Args:
        run: with which the reasons of this run's attempts begin.
        attempts: by reason.
        entries: of the audit log; those of other reasons are passed over.
        executed: how many times the fleet carried out each action, by action id.
    """
    findings = AuditFindings(attempts=len(attempts))
    rows: dict[str, list[AuditEntry]] = defaultdict(list)
    for entry in entries:
        if entry.reason.startswith(f"{run}/"):
            rows[entry.reason].append(entry)
    findings.entries = sum(map(len, rows.values()))
    for reason, attempt in attempts.items():
        found = rows.pop(reason, [])
        _count(findings, attempt, found)
        for entry in found:
            if wrong := _contradiction(attempt, entry, executed):
                findings.add("wrong", f"{_named(attempt)}: row {entry.id}: {wrong}")
    for reason, found in rows.items():
        findings.add("duplicate", f"{reason}: {len(found)} rows of an attempt that nobody made", len(found))
    for action_id, times in executed.items():
        if times > 1:
            findings.add("executed_twice", f"action {action_id}: carried out {times} times", times - 1)
    return findings


def _count(findings: AuditFindings, attempt: Attempt, found: Sequence[AuditEntry]) -> None:
    if not found and (attempt.accepted or attempt.denied):
        findings.add("missing", f"{_named(attempt)}: no row")
    # A refusal is no action, so one that got lost on its way and was asked for again is refused, and told, again.
    most = attempt.sends if attempt.denied else 1
    if len(found) > max(1, most):
        ids = ", ".join(entry.id for entry in found)
        findings.add("duplicate", f"{_named(attempt)}: rows {ids}: expected one", len(found) - max(1, most))


def _contradiction(attempt: Attempt, entry: AuditEntry, executed: Mapping[str, int]) -> str:
    """What a row tells otherwise than it was; empty: nothing."""
    told = {
        "actor": (entry.actor, attempt.actor),
        "role": (entry.role, attempt.role),
        "action": (entry.action, f"container.{attempt.kind}"),
        "target": (entry.target, f"container:{attempt.container}"),
    }
    for name, (found, expected) in told.items():
        if found != expected:
            return f"{name} = {found}: expected {expected}"
    if attempt.action_id and entry.action_id != attempt.action_id:
        return f"action_id = {entry.action_id}: expected {attempt.action_id}"
    return _wrong_result(attempt, entry) or _wrong_execution(entry, executed)


def _wrong_result(attempt: Attempt, entry: AuditEntry) -> str:
    result = entry.result
    if attempt.denied:
        if result != "denied" or not entry.detail.startswith(attempt.title):
            return f"result = {result}, detail {entry.detail!r}: the user was told {attempt.status} {attempt.title}"
    elif attempt.accepted and attempt.state in FINAL_STATES:
        # Denied at sending: protected, or its user revoked, while it waited for its agent. The user sees it fail.
        late = attempt.state == "failed" and result == "denied"
        if result != attempt.state and not late:
            return f"result = {result}: the user was told {attempt.state}"
    elif attempt.accepted and result == "denied":
        return "result = denied: the user was told that it was accepted"
    return ""


def _wrong_execution(entry: AuditEntry, executed: Mapping[str, int]) -> str:
    times = executed.get(entry.action_id or "", 0)
    if entry.result == "succeeded" and not times:
        return "result = succeeded: no agent carried it out"
    if times and entry.result in {"denied", "expired", "failed", "pending"}:
        return f"result = {entry.result}: an agent carried it out"
    return ""


def _named(attempt: Attempt) -> str:
    return f"{attempt.kind} of container {attempt.container} by {attempt.actor}, reason {attempt.reason}"


async def read_audit(http: str, authorization: Callable[[], str], since_us: int) -> list[AuditEntry]:
    """The whole audit log of an organisation since a time in Unix microseconds, newest first.

    Args:
        http: the server's address.
        authorization: an admin's `Authorization` header.
        since_us: of the first entries.

    Raises:
        AuditCheckError: there was no good answer in time.
    """
    found: list[AuditEntry] = []
    after: str | None = None
    while True:
        query = {"since": str(since_us), "limit": str(PAGE)} | ({} if after is None else {"after": after})
        try:
            page = await ask(f"{http}/api/audit?{urlencode(query)}", authorization, AuditPage)
        except AskError as error:
            raise AuditCheckError(f"the audit log cannot be read: {error}") from None
        found += page.entries
        after = page.next
        if after is None:
            return found
