"""The audit log against what was attempted and carried out."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from loadtests import asked
from loadtests.answers import AuditEntry
from loadtests.attempts import Attempt
from loadtests.audit_check import EXAMPLES, AuditCheckError, AuditFindings, compare, read_audit

RUN = "run-1"


def attempt(number: int = 1, **changes: Any) -> Attempt:
    """An attempt that was accepted and succeeded."""
    fields: dict[str, Any] = {
        "reason": f"{RUN}/{number}", "at_us": 1, "actor": "ann", "role": "operator", "kind": "stop", "container": "7",
        "expected": "accepted", "sends": 1, "status": 202, "action_id": f"a{number}", "state": "succeeded", "over": True,
    }  # fmt: skip
    return Attempt(**(fields | changes))


def denied(number: int = 2, **changes: Any) -> Attempt:
    """An attempt on a protected container."""
    fields = {"status": 403, "title": "protected", "action_id": "", "state": "", "expected": "protected"}
    return attempt(number, **(fields | changes))


def entry(number: int = 1, **changes: Any) -> AuditEntry:
    """The row of `attempt`."""
    fields: dict[str, Any] = {
        "id": str(100 + number), "at": 1, "actor": "ann", "role": "operator", "action": "container.stop",
        "target": "container:7", "reason": f"{RUN}/{number}", "result": "succeeded", "action_id": f"a{number}",
    }  # fmt: skip
    return AuditEntry(**(fields | changes))


def denial(number: int = 2, **changes: Any) -> AuditEntry:
    """The row of `denied`."""
    fields = {"result": "denied", "detail": "protected: only an admin may stop it", "action_id": None}
    return entry(number, **(fields | changes))


def found(attempts: list[Attempt], entries: list[AuditEntry], **executed: int) -> AuditFindings:
    """What the check finds."""
    return compare(RUN, {one.reason: one for one in attempts}, entries, executed)


def test_one_true_row_each_is_clean() -> None:
    """Rows of other runs and other people are none of our business."""
    findings = found([attempt(), denied()], [entry(), denial(), entry(9, reason="by hand")], a1=1)

    assert not findings.counts
    assert (findings.attempts, findings.entries, findings.examples) == (2, 2, [])
    assert findings.measured() == {
        "audit_missing": 0, "audit_duplicate": 0, "audit_wrong": 0, "actions_executed_twice": 0,
    }  # fmt: skip


@pytest.mark.parametrize("one", [attempt(), attempt(state="sent", over=False), denied(1)])
def test_an_attempt_without_a_row_is_missing(one: Attempt) -> None:
    """Whether it was taken or denied, once the user was answered."""
    findings = found([one], [], a1=1)

    assert findings.counts == {"missing": 1}
    assert findings.examples[0].about.endswith(f"reason {RUN}/1: no row")


def test_a_second_row_is_a_duplicate() -> None:
    """Also where both tell the truth."""
    assert found([attempt()], [entry(), entry(id="500")], a1=1).counts == {"duplicate": 1}
    assert found([denied(1)], [denial(1), denial(1), denial(1)]).counts == {"duplicate": 2}


def test_a_row_that_nobody_made_is_a_duplicate() -> None:
    """It has a reason of this run, and no attempt."""
    findings = found([attempt()], [entry(), entry(3), entry(3)], a1=1, a3=1)

    assert findings.counts == {"duplicate": 2}
    assert "2 rows of an attempt that nobody made" in findings.examples[0].about


@pytest.mark.parametrize(
    "changes",
    [
        {"actor": "bob"}, {"role": "admin"}, {"action": "container.start"}, {"target": "container:8"}, {"action_id": "a9"},
        {"action_id": None}, {"result": "failed"}, {"result": "pending"}, {"result": "denied"}, {"result": "unknown"},
    ],
    ids=str,
)  # fmt: skip
def test_a_row_that_tells_something_else_is_wrong(changes: dict[str, Any]) -> None:
    """Actor, role, action, target, action id and result must be those of the attempt."""
    assert found([attempt()], [entry(**changes)], a1=1).counts == {"wrong": 1}


@pytest.mark.parametrize(
    "changes", [{"result": "succeeded"}, {"detail": "forbidden: x"}, {"result": "pending"}], ids=str
)
def test_a_denial_must_be_told_with_its_cause(changes: dict[str, Any]) -> None:
    """The user was told `protected`: so must the audit log say."""
    assert found([denied()], [denial(**changes)]).counts == {"wrong": 1}


@pytest.mark.parametrize(
    ("result", "times", "good"),
    [
        ("succeeded", 1, 1), ("succeeded", 0, 0), ("failed", 0, 1), ("failed", 1, 0), ("expired", 0, 1), ("expired", 1, 0),
        ("unknown", 0, 1), ("unknown", 1, 1),
    ],
)  # fmt: skip
def test_a_result_must_be_what_the_fleet_did(result: str, times: int, good: int) -> None:
    """The agents' own ledger is the witness, whatever the user was told."""
    findings = found([attempt(state=result)], [entry(result=result)], **({"a1": times} if times else {}))

    assert (findings.counts == {}) == bool(good)


def test_a_denied_action_that_was_carried_out_is_wrong() -> None:
    """The worst of all: the log says no, the container was stopped."""
    one = attempt(state="failed")

    assert not found([one], [entry(result="denied", detail="denied: protected")]).counts
    assert found([one], [entry(result="denied", detail="denied: protected")], a1=1).counts == {"wrong": 1}


@pytest.mark.parametrize("result", ["pending", "sent", "succeeded", "failed", "expired", "unknown"])
def test_an_attempt_that_was_cut_off_may_have_ended_in_any_way(result: str) -> None:
    """The user did not see its outcome; only that it was taken."""
    one = attempt(state="pending", over=False)
    executed = {"a1": 1} if result == "succeeded" else {}

    assert not found([one], [entry(result=result)], **executed).counts
    assert found([one], [entry(result="denied", detail="forbidden")]).counts == {"wrong": 1}


def test_an_attempt_without_an_answer_may_have_a_row_or_none() -> None:
    """It may have been lost on its way; two rows are one too many all the same."""
    one = attempt(status=0, action_id="", state="", over=False, sends=3)

    assert not found([one], []).counts
    assert not found([one], [entry()], a1=1).counts
    assert found([one], [entry(), entry()], a1=1).counts == {"duplicate": 1}


def test_a_refusal_that_was_asked_for_again_may_be_told_again() -> None:
    """A denied request has no action that a key could lead to; each one that arrived is an attempt."""
    assert not found([denied(sends=2)], [denial(), denial()]).counts
    assert found([denied(sends=2)], [denial()] * 3).counts == {"duplicate": 1}


def test_an_action_carried_out_twice_is_counted() -> None:
    """Each time beyond the first, also of actions that are not of this run."""
    findings = found([attempt()], [entry()], a1=3, other=2)

    assert findings.counts == {"executed_twice": 3}
    assert findings.measured()["actions_executed_twice"] == 3


def test_examples_are_bounded_and_counts_are_not() -> None:
    """The file stays readable."""
    findings = found([attempt(number) for number in range(50)], [])

    assert findings.counts["missing"] == 50
    assert len(findings.examples) == EXAMPLES


class FakeAudit:
    """Answers HTTP requests with the given bodies in turn; `down` of them first with 503."""

    def __init__(self, *bodies: Any, down: int = 0) -> None:
        self.bodies = [json.dumps(body).encode() for body in bodies]
        self.down = down
        self.requests: list[str] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request per connection."""
        self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        self.down -= 1
        body = b"{}" if self.down >= 0 else self.bodies.pop(0)
        status = b"503 Unavailable" if self.down >= 0 else b"200 OK"
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def audit(request: pytest.FixtureRequest) -> AsyncIterator[FakeAudit]:
    """A server of audit pages."""
    fake: FakeAudit = request.param
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield fake


def page(*numbers: int, after: str | None = None) -> dict[str, Any]:
    """A page of entries."""
    return {"entries": [msgspec.to_builtins(entry(number)) for number in numbers], "next": after}


@pytest.mark.parametrize("audit", [FakeAudit(page(3, 2, after="102"), page(1), down=2)], indirect=True)
async def test_the_log_is_read_to_its_end(audit: FakeAudit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page after page as the admin, and again where the server is not there just now."""
    monkeypatch.setattr(asked, "_RETRY_SECONDS", 0.01)
    entries = await read_audit(audit.url, lambda: "Bearer t", 77)

    assert [one.reason for one in entries] == [f"{RUN}/3", f"{RUN}/2", f"{RUN}/1"]
    assert all("Authorization: Bearer t" in text and "since=77" in text for text in audit.requests)
    assert ["after=102" in text for text in audit.requests] == [False, False, False, True]


@pytest.mark.parametrize("audit", [FakeAudit({"rows": []})], indirect=True)
async def test_a_log_that_cannot_be_read_is_an_error(audit: FakeAudit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A form that is not the audit log's is no empty log."""
    monkeypatch.setattr(asked, "TRY_SECONDS", 0.0)

    with pytest.raises(AuditCheckError, match="the audit log cannot be read: ValidationError"):
        await read_audit(audit.url, lambda: "Bearer t", 0)
