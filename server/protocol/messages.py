"""Protocol v1: every message of both sockets as a type.

Four tagged unions, one per direction: `AgentMessage` (agent to server), `AgentCommand` (server to agent), `LiveRequest`
(browser to server), `LiveEvent` (server to browser). A frame is one JSON object whose `type` names the message.

Conventions that hold everywhere:

- Times are integer Unix microseconds, UTC. Durations carry their unit in the name.
- Ids and 64-bit keys are strings; JavaScript loses integers past 2^53.
- A field with a default may be left out; leaving it out means the default. Unknown fields are ignored, so optional
  fields can join v1 later; nothing else can.
- Constraints stand in the types. Where a row of a list breaks one, that row is rejected by name and the rest is kept
  (see `codec.decode_agent_message`).
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

PROTOCOL_VERSION = 1
AGENT_SUBPROTOCOL = "seatrial.agent.v1"
LIVE_SUBPROTOCOL = "seatrial.live.v1"

MAX_INT64 = 2**63 - 1
MAX_INT32 = 2**31 - 1

Micros = Annotated[int, Meta(ge=0, le=MAX_INT64, description="Unix time in microseconds, UTC")]
Seq = Annotated[int, Meta(ge=1, le=MAX_INT64, description="Number of a batch in its epoch: 1, 2, 3 ...")]
Acked = Annotated[int, Meta(ge=0, le=MAX_INT64, description="Highest acknowledged batch number, 0 for none")]
Ref = Annotated[
    int, Meta(ge=0, le=MAX_INT32, description="The agent's small number for a container, never reused in an epoch")
]
Bytes = Annotated[int, Meta(ge=0, le=MAX_INT64, description="A number of bytes")]
Uuid = Annotated[
    str,
    # The length too: `$` alone would let a line end pass.
    Meta(
        pattern="^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        max_length=36,
        description="A UUID in lower case",
    ),
]
ActionId = Annotated[str, Meta(min_length=1, max_length=64)]
ShortText = Annotated[str, Meta(max_length=255)]

ContainerState = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead", "removed"]
ActionKind = Literal["start", "stop", "restart"]
ActionOutcome = Literal["succeeded", "failed", "expired"]
ActionState = Literal["pending", "sent", "succeeded", "failed", "expired", "unknown"]
LogStream = Literal["stdout", "stderr"]


class _Message(Struct, tag_field="type", kw_only=True, frozen=True, omit_defaults=True):
    """Base of all messages: the tag travels as `type`."""


# ---------------------------------------------------------------- rows


class Container(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A container as its host reports it."""

    ref: Ref
    id: Annotated[
        str, Meta(pattern="^[a-f0-9]{64}$", max_length=64, description="Docker's full id, scoped to the host")
    ]
    name: Annotated[str, Meta(min_length=1, max_length=255)]
    image: Annotated[str, Meta(max_length=512)]
    state: Annotated[
        ContainerState,
        Meta(description="Docker's state; `removed`: gone from the host, but held batches still mention its ref"),
    ]
    labels: Annotated[dict[str, str], Meta(description="At most limits.labels_bytes of keys and values together")] = {}
    memory_limit_bytes: Annotated[Bytes | None, Meta(description="null: no limit")] = None
    protected: Annotated[bool, Meta(description="Set by the host's owner: only an Admin may stop it")] = False


class Metric(Struct, kw_only=True, frozen=True, omit_defaults=True, gc=False):
    """One sample of one container. Its identity is (container, at)."""

    ref: Ref
    cpu: Annotated[
        Annotated[float, Meta(ge=0, le=1_000_000)] | None,
        Meta(description="Percent, 100 = one core; stored as float32; null in a first sample"),
    ] = None
    mem: Annotated[Bytes | None, Meta(description="Bytes in use, page cache excluded")] = None
    rx: Annotated[Bytes | None, Meta(description="Bytes received, cumulative; a drop is a counter reset")] = None
    tx: Annotated[Bytes | None, Meta(description="Bytes sent, cumulative; a drop is a counter reset")] = None
    at: Annotated[Micros | None, Meta(description="Overrides the batch's `at`; rises strictly per container")] = None


class Log(Struct, kw_only=True, frozen=True, omit_defaults=True, gc=False):
    """One line of a container's output. Its identity is (container, at, line)."""

    ref: Ref
    at: Micros
    line: Annotated[
        int, Meta(ge=0, le=MAX_INT32, description="Ordinal among this container's lines of the same `at`, from 0")
    ]
    stream: LogStream
    text: Annotated[str, Meta(description="Without its line end; longer than limits.log_text_bytes is cut")]
    partial: Annotated[bool, Meta(description="The line goes on in the next row")] = False
    truncated: Annotated[bool, Meta(description="The agent or the server cut the text")] = False


class Rejected(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A row that was not stored, and why. The rest of its batch was."""

    seq: Seq
    row: Annotated[str, Meta(description="Where it stood: metrics[3], logs[0]")]
    reason: str
    ref: int | None = None
    at: int | None = None
    line: Annotated[int | None, Meta(description="null: the row is a metric, or its line was unreadable")] = None
    detail: Annotated[str, Meta(description="Field, value found, what was expected")] = ""


class Window(Struct, kw_only=True, frozen=True, gc=False):
    """How much may be on its way without an acknowledgement."""

    batches: Annotated[int, Meta(ge=1)]
    bytes: Annotated[int, Meta(ge=1, description="Sum of the UTF-8 bytes of the unacknowledged batch frames")]


class Clock(Struct, kw_only=True, frozen=True, gc=False):
    """Row times that the server takes right now; they move on with its clock."""

    earliest: Micros
    latest: Micros


class Limits(Struct, kw_only=True, frozen=True, gc=False):
    """What the server accepts at most."""

    frame_bytes: int
    containers: Annotated[int, Meta(description="Containers a host may declare, `removed` ones not counted")]
    labels_bytes: Annotated[int, Meta(description="UTF-8 bytes of all label keys and values of a container")]
    log_text_bytes: Annotated[int, Meta(description="UTF-8 bytes of a log line; the rest is cut off and marked")]


class ActionReport(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """How an action ended on the host."""

    action_id: ActionId
    outcome: Annotated[ActionOutcome, Meta(description="expired: it arrived after expires_at and was not executed")]
    finished_at: Micros
    detail: Annotated[str, Meta(max_length=2000)] = ""


class About(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What an `error` is about, as far as it is known."""

    type: str | None = None
    seq: int | None = None
    field: str | None = None
    topic: str | None = None
    action_id: str | None = None
    ref: Annotated[int | None, Meta(description="The container, where it is one")] = None


# ---------------------------------------------------------------- agent -> server


class Hello(_Message, tag="hello", kw_only=True, frozen=True):
    """First message of every connection: who speaks, what it still holds, which containers there are."""

    protocol: Annotated[int, Meta(description="1")]
    epoch: Annotated[Uuid, Meta(description="New at each start of the agent process")]
    connection: Annotated[int, Meta(ge=1, le=MAX_INT64, description="1 at first, +1 for each dial in this epoch")]
    machine_id: Annotated[str, Meta(min_length=1, max_length=128, description="Stable id of the machine")]
    oldest: Annotated[Seq, Meta(description="Lowest seq still held; equal to next_seq when none is")]
    next_seq: Annotated[
        Seq, Meta(description="Seq of the next batch never sent before; what lies below may have been stored already")
    ]
    agent_version: ShortText
    hostname: ShortText
    cores: Annotated[int, Meta(ge=1, le=100_000)]
    containers: Annotated[
        tuple[Container, ...], Meta(description="Every container, also `removed` ones that a held batch mentions")
    ] = ()
    containers_follow: Annotated[
        bool, Meta(description="The list goes on in `inventory` messages with snapshot part ... last")
    ] = False
    unacknowledged_results: tuple[ActionReport, ...] = ()


class Inventory(_Message, tag="inventory", kw_only=True, frozen=True):
    """What changed among the containers, or a part of a full snapshot."""

    at: Micros
    upserts: tuple[Container, ...] = ()
    removed: Annotated[tuple[Ref, ...], Meta(description="Refs of containers gone from the host")] = ()
    snapshot: Annotated[
        Literal["part", "last"] | None,
        Meta(description="null: a change. part/last: pieces of a full list; after `last` what it lacks is gone"),
    ] = None


class Batch(_Message, tag="batch", kw_only=True, frozen=True):
    """Samples and log lines; acknowledged once committed."""

    seq: Seq
    oldest: Annotated[Seq, Meta(description="Lowest seq still held; raising it declares what was dropped")]
    at: Micros
    metrics: tuple[Metric, ...] = ()
    logs: tuple[Log, ...] = ()


class Pulse(_Message, tag="pulse", kw_only=True, frozen=True):
    """Newest values for the live view while the window is full or a backlog drains. Neither stored nor acknowledged."""

    at: Micros
    metrics: tuple[Metric, ...] = ()


class ActionResult(_Message, tag="action_result", kw_only=True, frozen=True):
    """How an action ended; repeated on each connection until `result_ack`."""

    action_id: ActionId
    outcome: ActionOutcome
    finished_at: Micros
    detail: Annotated[str, Meta(max_length=2000)] = ""


class AgentHeartbeat(_Message, tag="heartbeat", kw_only=True, frozen=True):
    """Sent every `welcome.heartbeat_seconds`; the echo gives round trip and clock offset."""

    at: Annotated[Micros, Meta(description="The sender's clock; echoed as it came")]


class Bye(_Message, tag="bye", kw_only=True, frozen=True):
    """The agent leaves on purpose; the host goes offline at once."""

    reason: ShortText = ""


AgentMessage = Hello | Inventory | Batch | Pulse | ActionResult | AgentHeartbeat | Bye


# ---------------------------------------------------------------- server -> agent


class Welcome(_Message, tag="welcome", kw_only=True, frozen=True):
    """Answer to `hello`."""

    session: Annotated[str, Meta(description="Names this connection in the server's log")]
    server_time: Micros
    acked_seq: Annotated[
        Acked, Meta(description="Of this epoch: resend from max(acked_seq + 1, oldest), in order, once")
    ]
    window: Window
    heartbeat_seconds: Annotated[int, Meta(ge=1)]
    clock: Clock
    limits: Limits


class Ack(_Message, tag="ack", kw_only=True, frozen=True):
    """Cumulative: every batch up to `seq` is committed, or lies below `oldest`."""

    seq: Acked
    rejected: Annotated[
        tuple[Rejected, ...], Meta(description="The first 20 rows not stored since the ack before")
    ] = ()
    rejected_more: Annotated[dict[str, int], Meta(description="Count per reason of those beyond the first 20")] = {}


class WindowUpdate(_Message, tag="window", kw_only=True, frozen=True):
    """A new window; it may be smaller than what is on its way: then send nothing until it fits again."""

    batches: Annotated[int, Meta(ge=1)]
    bytes: Annotated[int, Meta(ge=1)]


class Action(_Message, tag="action", kw_only=True, frozen=True):
    """Do this once. Past `expires_at` (server time) answer `expired` and do nothing."""

    action_id: ActionId
    ref: Ref
    kind: ActionKind
    expires_at: Micros


class ResultAck(_Message, tag="result_ack", kw_only=True, frozen=True):
    """The result is stored (or of no interest): stop repeating it."""

    action_id: ActionId


class HeartbeatEcho(_Message, tag="heartbeat", kw_only=True, frozen=True):
    """Answer to a heartbeat, on both sockets."""

    at: Micros
    server_time: Micros


class TokenExpiring(_Message, tag="token_expiring", kw_only=True, frozen=True):
    """Dial again with a new token before `expires_at`; the new connection takes over and nothing is lost."""

    expires_at: Micros


class Drain(_Message, tag="drain", kw_only=True, frozen=True):
    """The server is about to stop: reconnect after a random time within these seconds once the socket closes."""

    reconnect_within_seconds: Annotated[int, Meta(ge=1)]


class Error(_Message, tag="error", kw_only=True, frozen=True):
    """Something was refused. After a fatal one the socket closes with the code of the catalogue."""

    code: str
    message: str
    fatal: bool
    about: About | None = None


AgentCommand = Welcome | Ack | WindowUpdate | Action | ResultAck | HeartbeatEcho | TokenExpiring | Drain | Error


# ---------------------------------------------------------------- browser -> server

Topic = Annotated[
    str,
    Meta(
        max_length=200,
        description="fleet | host:<host id> | container:<container id> | logs:<container id> | actions",
    ),
]
Topics = Annotated[tuple[Topic, ...], Meta(min_length=1, max_length=100)]


class Position(Struct, kw_only=True, frozen=True, gc=False):
    """A place in a container's log: the line (at, line) itself was seen, what follows was not."""

    at: Micros
    line: Annotated[int, Meta(ge=0, le=MAX_INT32)] = 0


class Subscribe(_Message, tag="subscribe", kw_only=True, frozen=True):
    """Watch topics. Each is answered by a `snapshot` or an `error` about it, then its events follow."""

    topics: Topics
    tail: Annotated[int, Meta(ge=0, le=10_000, description="Last lines wanted of a logs topic")] = 200


class Unsubscribe(_Message, tag="unsubscribe", kw_only=True, frozen=True):
    """Stop watching topics."""

    topics: Topics


class Pause(_Message, tag="pause", kw_only=True, frozen=True):
    """Hold the events of topics back; nothing is kept for them meanwhile."""

    topics: Topics


class Resume(_Message, tag="resume", kw_only=True, frozen=True):
    """Go on. A logs topic is read again from `since`; without it, and for other topics, a new snapshot comes."""

    topics: Topics
    since: Position | None = None


class LiveHeartbeat(_Message, tag="heartbeat", kw_only=True, frozen=True):
    """Asks for an echo: round trip and clock offset."""

    at: Micros


LiveRequest = Subscribe | Unsubscribe | Pause | Resume | LiveHeartbeat


# ---------------------------------------------------------------- server -> browser


class Sample(Struct, kw_only=True, frozen=True, omit_defaults=True, gc=False):
    """A container's newest values."""

    container: Annotated[str, Meta(description="Container id: a 63-bit number as decimal text")]
    at: Micros
    cpu: float | None = None
    mem: int | None = None
    rx: int | None = None
    tx: int | None = None


class LogLine(Struct, kw_only=True, frozen=True, omit_defaults=True, gc=False):
    """A log line of the topic's container."""

    at: Micros
    line: int
    stream: LogStream
    text: str
    partial: bool = False
    truncated: bool = False


class HostStatus(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A host as it stands now."""

    id: str
    hostname: str
    online: bool
    last_seen: Micros
    agent_version: str = ""
    cores: int = 0
    containers: int = 0
    clock_skew_ms: Annotated[
        float | None, Meta(description="Agent's clock minus server's, half the round trip allowed for")
    ] = None
    alert: Annotated[Literal["duplicate_identity"] | None, Meta(description="Another machine dialled as it")] = None


class ContainerStatus(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A container as it stands now."""

    id: str
    host: str
    docker_id: str
    name: str
    series: Annotated[str, Meta(description="Survives a re-created container: compose project/service[/number]")]
    image: str
    state: ContainerState
    protected: bool = False
    memory_limit_bytes: int | None = None
    labels: dict[str, str] = {}


class FleetSummary(Struct, kw_only=True, frozen=True, gc=False):
    """An organisation's fleet in numbers."""

    hosts_online: int
    hosts_offline: int
    containers_running: int
    containers: int
    cpu: Annotated[float, Meta(description="Sum of the newest samples, percent, 100 = one core")]
    mem: Annotated[int, Meta(description="Sum of the newest samples, bytes")]


class ActionStatus(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """An action as it stands now."""

    action_id: str
    container: str
    host: str
    kind: ActionKind
    state: ActionState
    requested_by: str
    requested_at: Micros
    reason: str = ""
    finished_at: Micros | None = None
    detail: str = ""


class Snapshot(_Message, tag="snapshot", kw_only=True, frozen=True):
    """The state of a topic at subscription, on resume, and once a second for `fleet`."""

    topic: str
    at: Micros
    fleet: FleetSummary | None = None
    host: HostStatus | None = None
    containers: tuple[ContainerStatus, ...] = ()
    samples: tuple[Sample, ...] = ()
    lines: Annotated[tuple[LogLine, ...], Meta(description="Oldest first")] = ()
    actions: tuple[ActionStatus, ...] = ()


class Metrics(_Message, tag="metrics", kw_only=True, frozen=True):
    """New samples. While a subscriber lags only the newest of each container is kept for it."""

    topic: str
    samples: tuple[Sample, ...]


class Logs(_Message, tag="logs", kw_only=True, frozen=True):
    """New lines of a logs topic, in order."""

    topic: str
    lines: tuple[LogLine, ...]


class HostChange(_Message, tag="host", kw_only=True, frozen=True):
    """A host went on- or offline, or its containers changed."""

    topic: str
    host: HostStatus
    upserts: tuple[ContainerStatus, ...] = ()
    removed: Annotated[tuple[str, ...], Meta(description="Container ids")] = ()


class ActionChange(_Message, tag="action", kw_only=True, frozen=True):
    """An action changed its state."""

    topic: str
    action: ActionStatus


class Gap(_Message, tag="gap", kw_only=True, frozen=True):
    """Lines or samples do not come: this subscriber did not keep up, or newer samples came first; REST has them."""

    topic: str
    dropped: Annotated[int, Meta(ge=1, description="How many lines or samples")]


LiveEvent = Snapshot | Metrics | Logs | HostChange | ActionChange | Gap | HeartbeatEcho | Error

MESSAGES: dict[str, tuple[type[Struct], ...]] = {
    "agent": (Hello, Inventory, Batch, Pulse, ActionResult, AgentHeartbeat, Bye),
    "agent_server": (
        Welcome, Ack, WindowUpdate, Action, ResultAck, HeartbeatEcho, TokenExpiring, Drain, Error,
    ),
    "live": (Subscribe, Unsubscribe, Pause, Resume, LiveHeartbeat),
    "live_server": (Snapshot, Metrics, Logs, HostChange, ActionChange, Gap, HeartbeatEcho, Error),
}  # fmt: skip
"""Messages by sender: the agent, the server to an agent, a browser, the server to a browser."""


def type_of(message: type[Struct]) -> str:
    """The `type` that a message class carries on the wire."""
    return str(message.__struct_config__.tag)
