"""What simulated operators attempted, on disk while they do it: the audit log is held against this file.

JSON lines, only ever appended to. Each attempt has a line when it begins, before anything is sent, and one when it is
over; the later line of a reason counts. So an attempt that was cut off is known too.
"""

import uuid
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from server.protocol.messages import ActionKind

Expected = Literal["accepted", "protected", "forbidden"]
FINAL_STATES = frozenset({"succeeded", "failed", "expired", "unknown"})
"""States of an action that has ended."""


class Attempt(Struct, kw_only=True, omit_defaults=True):
    """An attempt on a container, and what its user saw of it."""

    reason: str
    """`<run>/<UUID>`: in the audit log, this attempt and no other."""
    at_us: int
    """When it was meant to be made, in Unix microseconds."""
    actor: str
    role: str
    kind: ActionKind
    container: str
    expected: Expected
    sends: int = 0
    """Requests sent. More than one: those before brought no answer, or one that promises nothing."""
    status: int = 0
    """HTTP status of the answer that counts; 0: there was none."""
    title: str = ""
    """Of the problem, where it was denied."""
    action_id: str = ""
    state: str = ""
    """Newest state of the action that the user saw."""
    repeated: bool = False
    """It was sent once more with the same Idempotency-Key after it was answered."""
    over: bool = False
    """Whether the user saw it to its end."""

    @property
    def accepted(self) -> bool:
        """Whether the server took it."""
        return self.status in {200, 202}

    @property
    def denied(self) -> bool:
        """Whether the server refused it for a reason that the audit log tells."""
        return self.status in {403, 409} or (self.status == 429 and self.title != PACED)


PACED = "too_many_requests"
"""Title of a 429 that is no answer to the attempt: the organisation changes too much at once. It is not audited."""


def new_reason(run: str) -> str:
    """A reason for one attempt of a run."""
    return f"{run}/{uuid.uuid4()}"


class AttemptLog:
    """Appends to a file; each line is written at once. Without a path it keeps nothing.

    Raises:
        OSError: the file cannot be written; the methods may raise it too.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("ab", buffering=0)
        self._encode = msgspec.json.Encoder().encode

    def write(self, attempt: Attempt) -> None:
        """How an attempt stands now."""
        if self._file is not None:
            self._file.write(self._encode(attempt) + b"\n")

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._file is not None:
            self._file.close()


def read_attempts(path: Path) -> dict[str, Attempt]:
    """Every attempt by its reason, as it stood last. A half-written last line is left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is no attempt.
    """
    found: dict[str, Attempt] = {}
    decode = msgspec.json.Decoder(Attempt).decode
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            attempt = decode(line)
        except msgspec.DecodeError as error:
            raise ValueError(f"{path}:{number}: {error}: expected an attempt") from None
        found[attempt.reason] = attempt
    return found
