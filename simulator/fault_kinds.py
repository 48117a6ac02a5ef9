"""The kinds of fault that a scenario may name, and who brings each about."""

from collections.abc import Mapping
from typing import NamedTuple

from simulator.backoff import TAKEOVER_SECONDS

CONNECTION, CLOCK, FRAMES = "connection", "clock", "frames"
FLEET_PARTS = (CONNECTION, CLOCK, FRAMES)
"""Parts that break in the fleet itself; the others the runner breaks."""

_WHO = ("fraction", "agents")


class FaultKind(NamedTuple):
    """A kind of fault."""

    meaning: str
    part: str
    """What breaks: `server`, `postgres` or `network`, or one of `FLEET_PARTS`. But for `frames`, a part has one fault at a
    time."""
    keys: tuple[str, ...] = ()
    """The keys that it takes beside `at` and `kind`."""
    defaults: Mapping[str, str | int] = {}
    """Where they are others than those of the format."""
    late_seconds: float = 0.0
    """How much later than `for` after its beginning it may be over."""

    @property
    def of_fleet(self) -> bool:
        """Whether the fleet does it, and not the runner."""
        return self.part in FLEET_PARTS


FAULTS: dict[str, FaultKind] = {
    "server_kill": FaultKind("The server gets SIGKILL: no close frame, no last flush.", "server"),
    "server_kill_before_ack": FaultKind(
        "The server gets SIGKILL between a COMMIT and its acks: rows are stored, and no agent knows of it.", "server"
    ),
    "server_term": FaultKind("The server gets SIGTERM: it drains, and ends with exit code 0.", "server"),
    "postgres_kill": FaultKind(
        "The postmaster gets SIGKILL, and its backends end with it; `for` later Postgres is started again.",
        "postgres",
        ("for",),
    ),
    "postgres_stop": FaultKind(
        "The postmaster and its backends get SIGSTOP, and `for` later SIGCONT: connections stay open and silent.",
        "postgres",
        ("for",),
    ),
    "acks_withheld": FaultKind("Nothing that the server sends reaches an agent, `for` so long.", "network", ("for",)),
    "resets": FaultKind(
        "A `fraction` of the agents' connections, chosen by the seed, is reset.", "network", ("fraction",)
    ),
    "disconnect": FaultKind("Agents cut their connections, and come back by their back-off.", CONNECTION, _WHO),
    "reconnect_storm": FaultKind(
        "Agents cut their connections, stay away `for` so long, and then all dial in the same instant.",
        CONNECTION,
        ("for", *_WHO),
        {"fraction": 1},
    ),
    "half_open": FaultKind(
        "Connections die silently: what agents send is lost, nothing is read, no FIN goes either way. An agent that notices "
        "dials anew; `for` later what still stands is cut.",
        CONNECTION,
        ("for", *_WHO),
    ),
    "unread_acks": FaultKind(
        "Agents go on sending and read nothing, not even pings, `for` so long.", CONNECTION, ("for", *_WHO)
    ),
    "slow_link": FaultKind(
        "Both ways of the agents' connections carry `bytes_per_second` at most, and each frame comes `latency` late, "
        "`for` so long.",
        CONNECTION,
        ("for", *_WHO, "bytes_per_second", "latency"),
    ),
    "token_expiry": FaultKind(
        "Agents dial with a token that lives `for` so long, whole seconds, and pay no heed to `token_expiring`.",
        CONNECTION,
        ("for", *_WHO),
        late_seconds=TAKEOVER_SECONDS,  # one that has just dialled waits so long before it does again
    ),
    "clock_skew": FaultKind(
        "The agents' clocks are off by `skew`, and so is the time of all they send, `for` so long.",
        CLOCK,
        ("for", *_WHO, "skew"),
    ),
    "duplicate_identity": FaultKind(
        "A second machine with the agent's token says hello; the server must refuse it.", FRAMES, _WHO
    ),
    "cloned_epoch": FaultKind(
        "A copy of the agent, with its machine_id, epoch and connection number, says hello; the server must refuse it.",
        FRAMES,
        _WHO,
    ),
    "malformed_frames": FaultKind(
        "Agents send `frames` that are no message; the third in a minute costs them their connection for 5 to 10 min.",
        FRAMES,
        (*_WHO, "frames"),
        {"frames": 2},
    ),
    "oversized_frames": FaultKind("Agents send a frame one byte over the server's limit.", FRAMES, _WHO),
    "window_flood": FaultKind(
        "Agents send `frames` empty batches at once, whatever their window is.", FRAMES, (*_WHO, "frames")
    ),
    "frame_flood": FaultKind(
        "Agents send `frames` heartbeats as fast as their connection takes them.", FRAMES, (*_WHO, "frames")
    ),
}
"""Kinds of fault that a scenario may name."""

FLEET_FAULTS = tuple(name for name, kind in FAULTS.items() if kind.of_fleet)
"""Those that the fleet brings about itself."""
