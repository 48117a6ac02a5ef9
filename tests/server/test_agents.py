"""Who is there: takeover, identity, silence, acks that wait, and the containers of a host."""

from collections.abc import Callable
from typing import Any

import pytest

from server import agents
from server.agents import AgentRecord, Session, TrackedContainer
from server.counters import Counters
from server.errors import PeerError
from server.protocol.close_codes import CloseCode
from server.protocol.error_codes import ErrorCode
from server.protocol.messages import About, Ack, Container, Error, Hello, Inventory, Rejected
from server.registry import Registry
from tests.support.core import EPOCH, OTHER_EPOCH, container, hello, make_registry, show
from tests.support.sockets import ScriptedSocket

PassSeconds = Callable[[float], None]


class Rig:
    """A registry, and what it told the watchers of hosts."""

    def __init__(self, **limits: Any) -> None:
        self.counters = Counters()
        self.registry: Registry = make_registry(self.counters, **limits)
        self.told: list[tuple[str, list[str], list[str]]] = []
        self.registry.on_host = self._tell

    def _tell(self, record: AgentRecord, upserts: list[TrackedContainer], removed: list[TrackedContainer]) -> None:
        self.told.append((record.host, [c.info.name for c in upserts], [c.info.name for c in removed]))

    def connect(self, greeting: Hello, *, org: str = "o", host: str = "h1") -> Session:
        """A connection whose hello is taken without an error."""
        session, errors = self.registry.connect(org, host, greeting, ScriptedSocket())
        assert errors == []
        return session

    def errors(self, *containers: Container) -> list[Error]:
        """What an inventory with these containers is answered."""
        record = self.registry.record("o", "h1")
        return self.registry.inventory(record, Inventory(at=1, upserts=containers)).errors

    def present(self) -> list[str]:
        """Names of the containers that h1 has."""
        record = self.registry.record("o", "h1")
        return sorted(c.info.name for c in record.by_id.values() if c.removed_at is None)


@pytest.fixture
async def rig() -> Rig:
    """A registry."""
    return Rig()


def closed(session: Session) -> tuple[CloseCode, str] | None:
    """How a session's socket was closed, if it was."""
    assert isinstance(session.socket, ScriptedSocket)
    return session.socket.closed


class TestTakeover:
    """Two connections of one identity."""

    async def test_a_first_hello_makes_a_host(self, rig: Rig) -> None:
        """A host is online with its containers from its hello on."""
        session = rig.connect(hello(container(0), container(1)))
        status = session.record.status()

        assert (status.id, status.hostname, status.online, status.cores, status.containers) == ("h1", "box", True, 4, 2)
        assert rig.told == [("h1", ["c0", "c1"], [])]
        assert rig.registry.connected == 1
        assert set(rig.registry.by_container) == {known.id for known in session.record.containers.values()}

    async def test_a_newer_connection_of_the_same_machine_wins(self, rig: Rig) -> None:
        """The old socket is closed 4509; what the epoch has received and committed stays."""
        old = rig.connect(hello(connection=1))
        old.progress.received, old.progress.acked = 7, 5

        new = rig.connect(hello(connection=2))

        assert closed(old) == (CloseCode.SUPERSEDED, "a newer connection of this agent took over")
        assert closed(new) is None
        assert new.progress is old.progress
        assert (new.record.session, rig.registry.connected, rig.counters.takeovers) == (new, 1, 1)

    async def test_the_end_of_a_superseded_connection_changes_nothing(
        self, rig: Rig, pass_seconds: PassSeconds
    ) -> None:
        """Neither its disconnect nor its bye takes the new connection's host offline."""
        old = rig.connect(hello(connection=1))
        new = rig.connect(hello(connection=2))
        rig.registry.disconnect(old)
        rig.registry.leave(old)
        pass_seconds(10)
        rig.registry.tick()

        assert (new.record.session, new.record.online, rig.registry.connected) == (new, True, 1)

    @pytest.mark.parametrize("connection", [1, 2])
    async def test_an_older_connection_is_refused(self, rig: Rig, connection: int) -> None:
        """A dial of the same epoch that is not newer than the open one is told so and closed 4509."""
        current = rig.connect(hello(connection=2))

        with pytest.raises(PeerError) as caught:
            rig.registry.connect("o", "h1", hello(connection=connection), ScriptedSocket())

        assert caught.value.close_code == CloseCode.SUPERSEDED
        assert str(caught.value) == f"connection = {connection}: expected more than 2, which is connected"
        assert caught.value.error.about == About(type="hello", field="connection")
        assert (closed(current), current.record.session, rig.registry.connected) == (None, current, 1)

    async def test_an_older_connection_may_come_when_nobody_is_there(self, rig: Rig) -> None:
        """Numbers decide between two sockets only."""
        rig.registry.disconnect(rig.connect(hello(connection=5)))

        assert rig.connect(hello(connection=2)).record.online

    async def test_a_restarted_agent_takes_over_with_its_first_connection(self, rig: Rig) -> None:
        """A new epoch of the machine wins whatever its connection number, and its progress begins anew."""
        old = rig.connect(hello(container(0), connection=9))
        old.progress.received = old.progress.acked = 7

        new = rig.connect(hello(container(0), connection=1, epoch=OTHER_EPOCH))

        assert closed(old) is not None
        assert (new.progress.epoch, new.progress.acked, new.progress.received) == (OTHER_EPOCH, 0, 0)
        assert old.progress.on_change is None

    async def test_another_machine_is_refused_and_raises_an_alert(self, rig: Rig) -> None:
        """One token on two hosts: the newcomer is refused with 4510, the host shows the alert, its agent stays."""
        current = rig.connect(hello())
        rig.told.clear()

        with pytest.raises(PeerError) as caught:
            rig.registry.connect("o", "h1", hello(machine_id="m2", connection=9), ScriptedSocket())

        assert caught.value.close_code == CloseCode.DUPLICATE_IDENTITY
        assert caught.value.error.code == ErrorCode.DUPLICATE_IDENTITY
        assert "machine_id = 'm2'" in str(caught.value)
        assert (closed(current), current.record.session) == (None, current)
        assert current.record.status().alert == "duplicate_identity"
        assert rig.told == [("h1", [], [])]
        assert rig.counters.duplicate_identities == 1
        assert rig.connect(hello(connection=2)).record.status().alert is None

    async def test_another_machine_may_come_when_nobody_is_there(self, rig: Rig) -> None:
        """A host that was moved to another machine is no duplicate."""
        rig.registry.disconnect(rig.connect(hello()))

        assert rig.connect(hello(machine_id="m2", epoch=OTHER_EPOCH)).record.online

    async def test_hosts_of_other_organisations_are_others(self, rig: Rig) -> None:
        """The same host name, machine and containers in two organisations never meet."""
        one = rig.connect(hello(container(0)), org="a")
        two = rig.connect(hello(container(0)), org="b")

        assert one.record is not two.record
        assert (closed(one), rig.registry.connected) == (None, 2)
        assert one.record.containers[0].id != two.record.containers[0].id

    async def test_a_lane_is_for_life(self) -> None:
        """A host's lane follows from its name: the same after a restart, and hosts spread over all lanes."""
        one, two = make_registry(lanes=4), make_registry(lanes=4)
        names = [f"host-{i}" for i in range(200)]
        lanes = [one.record("o", name).lane for name in names]

        assert lanes == [two.record("o", name).lane for name in names]
        assert set(lanes) == {0, 1, 2, 3}
        assert one.record("o", "host-0") is one.record("o", "host-0")

    async def test_text_that_postgres_cannot_store_is_cleaned(self, rig: Rig) -> None:
        """U+0000 in what a host says of itself becomes U+FFFD: one host must not stop the writing of all."""
        session = rig.connect(hello(hostname="b\0x", machine_id="m\0", agent_version="1\0"))
        greeting = session.record.hello

        assert greeting is not None
        assert (greeting.hostname, greeting.machine_id, greeting.agent_version) == ("b\ufffdx", "m\ufffd", "1\ufffd")
        assert rig.connect(hello(hostname="b\0x", machine_id="m\0", connection=2)).machine_id == "m\ufffd"


class TestSilence:
    """Online and offline."""

    async def test_silence_closes_the_socket(self, rig: Rig, pass_seconds: PassSeconds) -> None:
        """No frame for three heartbeat intervals: closed 4004, offline at once."""
        session = rig.connect(hello())
        pass_seconds(44)
        rig.registry.tick()
        assert (closed(session), session.record.online) == (None, True)

        pass_seconds(2)
        rig.registry.tick()

        assert closed(session) == (CloseCode.SILENT, "no frame for 45 s")
        assert (session.record.online, session.record.session, rig.registry.connected) == (False, None, 0)

    async def test_any_frame_counts_as_alive(self, rig: Rig, pass_seconds: PassSeconds) -> None:
        """The silence is counted from the last frame."""
        session = rig.connect(hello())
        pass_seconds(40)
        session.last_frame += 40
        pass_seconds(40)
        rig.registry.tick()

        assert session.record.online

    async def test_a_closed_socket_has_a_grace(self, rig: Rig, pass_seconds: PassSeconds) -> None:
        """A host is offline 5 s after its socket closed, not before, and its watchers are told then."""
        session = rig.connect(hello())
        rig.registry.disconnect(session)
        rig.told.clear()
        pass_seconds(4)
        rig.registry.tick()
        assert (session.record.online, rig.told) == (True, [])

        pass_seconds(2)
        rig.registry.tick()

        assert (session.record.online, rig.told) == (False, [("h1", [], [])])

    async def test_who_comes_back_in_time_was_never_offline(self, rig: Rig, pass_seconds: PassSeconds) -> None:
        """A reconnect within the grace ends it."""
        rig.registry.disconnect(rig.connect(hello()))
        pass_seconds(4)
        session = rig.connect(hello(connection=2))
        pass_seconds(4)
        rig.registry.tick()

        assert session.record.online

    async def test_bye_needs_no_grace(self, rig: Rig) -> None:
        """An agent that leaves on purpose is offline at once."""
        session = rig.connect(hello())
        rig.told.clear()

        rig.registry.leave(session)

        assert (session.record.online, rig.told, rig.registry.connected) == (False, [("h1", [], [])], 0)

    async def test_an_end_counts_once(self, rig: Rig) -> None:
        """Disconnecting twice does no harm."""
        session = rig.connect(hello())
        rig.registry.disconnect(session)
        rig.registry.disconnect(session)

        assert rig.registry.connected == 0


def rejected(position: int, reason: str = "too_old") -> Rejected:
    """A rejected row."""
    return Rejected(seq=1, row=f"metrics[{position}]", reason=reason)


class TestAcks:
    """Acks of agents that do not read."""

    async def test_only_the_newest_ack_waits(self, rig: Rig) -> None:
        """Three commits while the socket takes nothing become one ack with all their rejections."""
        session = rig.connect(hello())
        socket = session.socket
        assert isinstance(socket, ScriptedSocket)
        socket.takes = 0
        for seq in (1, 2, 3):
            session.progress.committed(seq, 1, 10, [rejected(seq)])
            session.record.send_ack()
        assert (socket.frames, session.record.ack_due) == ([], True)

        socket.takes = None
        session.record.send_ack()

        assert socket.acks == [Ack(seq=3, rejected=(rejected(1), rejected(2), rejected(3)))]
        assert not session.record.ack_due
        session.record.send_ack()
        assert socket.acks[1] == Ack(seq=3)

    async def test_rejections_beyond_twenty_are_counted_by_reason(self, rig: Rig) -> None:
        """However many rows were rejected, an ack stays small."""
        session = rig.connect(hello())
        session.progress.committed(1, 1, 10, [rejected(i) for i in range(18)])
        session.progress.committed(2, 1, 10, [rejected(i, "unknown_ref" if i > 3 else "too_old") for i in range(6)])

        ack = session.progress.take_ack()

        assert (ack.seq, len(ack.rejected)) == (2, 20)
        assert ack.rejected_more == {"too_old": 2, "unknown_ref": 2}

    async def test_a_new_connection_is_told_again(self, rig: Rig) -> None:
        """What the ack before named is named once more, as far as there is room; counts are not repeated."""
        session = rig.connect(hello())
        progress = session.progress
        old = [Rejected(seq=1, row=f"metrics[{i}]", reason="too_old") for i in range(25)]
        progress.committed(1, 1, 10, old)
        assert progress.take_ack().rejected == tuple(old[:20])
        assert progress.take_ack().rejected == ()
        new = Rejected(seq=2, row="logs[0]", reason="too_old")
        progress.committed(2, 1, 10, [new])

        rig.connect(hello(connection=2))

        ack = progress.take_ack()
        assert ack.rejected == (new, *old[:19])
        assert ack.rejected_more == {}

    async def test_what_is_told_again_is_named_once(self, rig: Rig) -> None:
        """A connection that breaks before its first ack adds no repetition to the ones after it."""
        progress = rig.connect(hello()).progress
        progress.committed(1, 1, 10, [rejected(0)])
        progress.take_ack()

        rig.connect(hello(connection=2))
        rig.connect(hello(connection=3))

        assert progress.take_ack().rejected == (rejected(0),)

    async def test_without_a_connection_rejections_wait(self, rig: Rig) -> None:
        """What was rejected while the agent was away is told with the first ack afterwards."""
        session = rig.connect(hello())
        rig.registry.disconnect(session)
        session.progress.committed(1, 1, 10, [rejected(0)])
        session.record.send_ack()
        again = rig.connect(hello(connection=2))

        again.record.send_ack()

        assert isinstance(again.socket, ScriptedSocket)
        assert again.socket.acks == [Ack(seq=1, rejected=(rejected(0),))]


class TestContainers:
    """Inventories."""

    async def test_a_snapshot_in_the_hello_removes_what_it_lacks(self, rig: Rig) -> None:
        """What the host no longer lists is gone; what comes back is there again under its old key."""
        first = rig.connect(hello(container(0), container(1)))
        key = first.record.containers[0].id
        rig.connect(hello(container(1), connection=2))
        assert rig.present() == ["c1"]
        assert rig.told[-1] == ("h1", ["c1"], ["c0"])

        rig.connect(hello(container(0), container(1), connection=3))

        assert rig.present() == ["c0", "c1"]
        assert first.record.containers[0].id == key

    async def test_a_snapshot_in_parts_removes_at_its_end(self, rig: Rig) -> None:
        """Nothing is gone before the last part; then everything is that no part listed."""
        rig.connect(hello(container(0), container(1), container(2), container(3)))
        session = rig.connect(hello(container(0), connection=2, containers_follow=True))
        assert rig.present() == ["c0", "c1", "c2", "c3"]
        rig.registry.inventory(session.record, Inventory(at=1, upserts=(container(1),), snapshot="part"))
        assert rig.present() == ["c0", "c1", "c2", "c3"]

        change = rig.registry.inventory(session.record, Inventory(at=1, upserts=(container(2),), snapshot="last"))

        assert rig.present() == ["c0", "c1", "c2"]
        assert [gone.info.name for gone in change.removed] == ["c3"]

    async def test_a_snapshot_later_on(self, rig: Rig) -> None:
        """A full list may come at any time."""
        session = rig.connect(hello(container(0), container(1)))

        rig.registry.inventory(session.record, Inventory(at=1, upserts=(container(1),), snapshot="last"))

        assert rig.present() == ["c1"]

    async def test_a_change_removes_only_what_it_names(self, rig: Rig) -> None:
        """Refs that are not known are passed over; held rows of a removed container are still taken."""
        session = rig.connect(hello(container(0), container(1)))

        rig.registry.inventory(session.record, Inventory(at=1, upserts=(container(2),), removed=(0, 99)))

        assert rig.present() == ["c1", "c2"]
        assert session.record.containers[0].info.state == "removed"
        assert rig.told[-1] == ("h1", ["c2"], ["c0"])

    async def test_a_ref_is_never_used_again_in_an_epoch(self, rig: Rig) -> None:
        """A ref that names another container is refused and the first keeps it; the next epoch is free to."""
        session = rig.connect(hello(container(0)))

        (error,) = rig.errors(container(0, number=5))

        assert error == Error(
            code=ErrorCode.INVALID_CONTAINER, message="container 'c5': ref = 0: already names another container",
            fatal=False, about=About(field="ref", ref=0),
        )  # fmt: skip
        assert session.record.containers[0].info.name == "c0"
        assert rig.connect(hello(container(0, number=5), epoch=OTHER_EPOCH)).record.containers[0].info.name == "c5"

    async def test_a_container_may_get_another_ref(self, rig: Rig) -> None:
        """Two refs of one container lead to one series."""
        session = rig.connect(hello(container(0)))

        assert rig.errors(container(7, number=0)) == []

        assert session.record.containers[7] is session.record.containers[0]

    async def test_labels_are_bounded(self) -> None:
        """Label bytes over the limit cost that container; at the limit it is taken."""
        rig = Rig(labels_bytes=10)
        rig.connect(hello())

        (error,) = rig.errors(container(0, labels={"é": "x" * 8}), container(1, labels={"é": "x" * 9}))

        assert (error.code, error.about) == (ErrorCode.LIMIT_EXCEEDED, About(field="labels", ref=1))
        assert error.message == "container 'c1': labels: 11 bytes, expected at most 10"
        assert rig.present() == ["c0"]

    async def test_a_refused_update_does_not_remove(self) -> None:
        """A container whose new labels are refused is still there, as it was."""
        rig = Rig(labels_bytes=10)
        session = rig.connect(hello(container(0)))
        bad = container(0, name="renamed", labels={"k": "x" * 10})

        assert len(rig.registry.inventory(session.record, Inventory(at=1, upserts=(bad,), snapshot="last")).errors) == 1

        assert rig.present() == ["c0"]

    async def test_containers_are_bounded(self) -> None:
        """A host has as many containers as the limit; those removed do not count, those that come back do."""
        rig = Rig(max_containers=2)
        session = rig.connect(hello(container(0), container(1)))

        (error,) = rig.errors(container(2))
        assert (error.code, error.message) == (
            ErrorCode.LIMIT_EXCEEDED,
            "container 'c2': expected at most 2 containers",
        )
        assert rig.errors(container(3, state="removed")) == []
        assert rig.errors(container(0, state="exited")) == []
        rig.registry.inventory(session.record, Inventory(at=1, removed=(0,)))
        assert rig.errors(container(2)) == []
        assert [error.code for error in rig.errors(container(0), container(3))] == [ErrorCode.LIMIT_EXCEEDED] * 2
        assert rig.present() == ["c1", "c2"]

    async def test_a_new_list_may_replace_all_containers(self) -> None:
        """A host at its limit that comes back with other containers has these: only the new list counts, in parts too."""
        rig = Rig(max_containers=2)
        session = rig.connect(hello(container(0), container(1)))

        rig.connect(hello(container(2), container(3), connection=2))
        assert rig.present() == ["c2", "c3"]

        rig.connect(hello(container(4), connection=3, containers_follow=True))
        last = Inventory(at=1, upserts=(container(5), container(6)), snapshot="last")
        (error,) = rig.registry.inventory(session.record, last).errors
        assert error.about == About(field="containers", ref=6)
        assert rig.present() == ["c4", "c5"]

    async def test_a_key_that_is_taken_is_refused(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two containers of one 63-bit key are never mixed: the second one is refused and counted."""
        rig.connect(hello(container(0)), host="h2")
        key = rig.registry.record("o", "h2").containers[0].id
        monkeypatch.setattr(agents, "container_id", lambda *_: key)
        session, errors = rig.registry.connect("o", "h1", hello(container(0)), ScriptedSocket())

        assert [(error.code, error.about) for error in errors] == [
            (ErrorCode.INVALID_CONTAINER, About(field="id", ref=0))
        ]
        assert session.record.containers == {}
        assert rig.counters.container_collisions == 1
        assert rig.registry.by_container[key].host == "h2"

    async def test_names_are_cleaned(self, rig: Rig) -> None:
        """U+0000 in a name, image or label becomes U+FFFD before it is shown or stored."""
        session = rig.connect(hello(container(0, name="a\0", image="i\0", labels={"k\0": "v\0"})))
        info = session.record.containers[0].info

        assert (info.name, info.image, info.labels) == ("a\ufffd", "i\ufffd", {"k\ufffd": "v\ufffd"})

    async def test_a_stopped_container_shows_no_values(self, rig: Rig) -> None:
        """The newest sample of a container that no longer runs is not its state."""
        session = rig.connect(hello(container(0)))
        known = session.record.containers[0]
        show(known, 5, cpu=1.0, mem=2, rx=3, tx=4)

        assert rig.errors(container(0, state="exited")) == []

        assert known.newest is None

    async def test_what_changed_is_marked_for_the_database(self, rig: Rig) -> None:
        """Each container that came, changed or went is written."""
        session = rig.connect(hello(container(0), container(1)))
        record = session.record
        record.dirty.clear()

        rig.registry.inventory(record, Inventory(at=1, upserts=(container(2),), removed=(0,)))

        assert record.dirty == {record.containers[0].id, record.containers[2].id}
        assert record in rig.registry.dirty

    async def test_what_is_long_gone_is_forgotten(self, rig: Rig) -> None:
        """Containers removed before the moment leave the memory whole; later ones and running ones stay."""
        session = rig.connect(hello(container(0), container(1), container(2)))
        record = session.record
        old, recent, running = (record.containers[ref] for ref in range(3))
        rig.registry.inventory(record, Inventory(at=1, removed=(0, 1)))
        old.removed_at, recent.removed_at = 100.0, 200.0

        assert rig.registry.forget(150.0) == 1

        assert set(record.by_id) == {recent.id, running.id}
        assert set(record.containers) == {1, 2}
        assert set(rig.registry.by_container) == {recent.id, running.id}
        assert old.id not in record.dirty
        assert rig.counters.containers_forgotten == 1

    async def test_forgetting_within_a_snapshot_does_no_harm(self, rig: Rig) -> None:
        """A container that is forgotten between two parts of a list is not missed at its end."""
        rig.connect(hello(container(0)))
        session = rig.connect(hello(container(0, state="removed"), connection=2, containers_follow=True))
        session.record.containers[0].removed_at = 100.0
        rig.registry.forget(150.0)

        rig.registry.inventory(session.record, Inventory(at=1, upserts=(container(1),), snapshot="last"))

        assert rig.present() == ["c1"]

    async def test_a_container_is_forgotten_under_all_its_refs(self, rig: Rig) -> None:
        """Nothing of a forgotten container is left, by whichever ref it was known."""
        session = rig.connect(hello(container(0)))
        assert rig.errors(container(7, number=0, state="removed")) == []
        session.record.containers[0].removed_at = 100.0

        rig.registry.forget(150.0)

        assert session.record.containers == {}


async def test_a_new_epoch_remembers_what_was_stored(rig: Rig) -> None:
    """The newest sample of earlier epochs is kept per container, however many epochs pass without one."""
    record = rig.connect(hello(container(0))).record
    known = record.containers[0]
    known.last_at = 50
    for epoch in (OTHER_EPOCH, EPOCH):
        rig.connect(hello(container(3, number=0), epoch=epoch))

        assert (known.floor_at, known.last_at) == (50, 0)
        assert record.containers == {3: known}
