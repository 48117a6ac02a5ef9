"""What a fleet tells of its own faults: one entry for each, added up over processes, and why one did not happen."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Told = Mapping[str, Any]
"""One fault as it stands in a report: kind, planned, begun_us, ended_us, agents, counted, happened, counts, missed."""


def missed(told: Told) -> str:
    """Why a fault counts as not having happened; empty: it did, or no agent of this part of the fleet was to be struck."""
    if not told["agents"]:
        return ""
    if told["begun_us"] is None:
        return "its time had not come when the fleet stopped"
    if told["ended_us"] is None:
        return "it was not over when the fleet stopped"
    if not told["happened"]:
        counts = ", ".join(f"{count} {what}" for what, count in told["counts"].items() if count)
        return f"{told['counted']} = 0 of {told['agents']} agents: {counts or 'none was connected'}"
    return ""


def missed_reasons(faults: Sequence[Told]) -> list[str]:
    """Why a run in which some did not happen says nothing; empty: all did."""
    return [f"the fault {told['planned']} did not happen: {told['missed']}" for told in faults if told["missed"]]


def add_faults(parts: Sequence[Sequence[Told]]) -> list[dict[str, Any]]:
    """The faults of a fleet of several processes, each of which had all of them, and struck its own agents."""
    return [_added(of_one) for of_one in zip(*parts, strict=True)]


def _added(parts: Sequence[Told]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part["counts"])
    begun, ended = ([part[name] for part in parts if part["agents"]] for name in ("begun_us", "ended_us"))
    whole = dict(parts[0]) | {
        "begun_us": None if None in begun else min(begun, default=None),
        "ended_us": None if None in ended else max(ended, default=None),
        "agents": sum(part["agents"] for part in parts),
        "happened": sum(part["happened"] for part in parts),
        "counts": dict(counts),
    }
    return whole | {"missed": missed(whole)}
