"""Windows: shares of one budget, shrunk under pressure, regrown after."""

import random

import pytest

from server.counters import Counters
from server.errors import PeerError
from server.ingest import Ingest
from server.protocol.codec import decode_agent_command
from server.protocol.error_codes import ErrorCode
from server.protocol.messages import Metric, Window, WindowUpdate
from server.registry import Registry
from server.windows import FIRST_BATCHES, GRACE_SECONDS, SHARED_OUT, Budget, Windows
from tests.support.core import (
    Peer,
    RecordingLane,
    RecordingLive,
    connect,
    container,
    hello,
    make_ingest,
    make_quotas,
    make_registry,
)

TICKS = 10
"""After so many every agent was looked at."""


class Fleet:
    """Agents that keep to their windows, over a lane that commits when it is told to."""

    def __init__(self, agents: int, budget_bytes: int, *, share: float = 1.0, window_batches: int = 64) -> None:
        self.budget = Budget(budget_bytes, share=share)
        self.registry: Registry = make_registry(quotas=make_quotas())
        self.lane = RecordingLane()
        self.ingest: Ingest = make_ingest(
            Counters(), [self.lane], RecordingLive(False), budget=self.budget, registry=self.registry,
            window_batches=window_batches,
        )  # fmt: skip
        self.peers = [self.join(f"h{i}") for i in range(agents)]

    @property
    def windows(self) -> Windows:
        """Of the ingest."""
        return self.ingest.windows

    def join(self, host: str) -> Peer:
        """One more agent."""
        return connect(self.registry, self.ingest, hello(*map(container, range(5))), host=host)

    def look_round(self, rounds: int = 1) -> None:
        """Let every agent be looked at so often."""
        for _ in range(TICKS * rounds):
            self.windows.tick()

    def grow(self) -> None:
        """Let everybody's batches be stored for a while: windows become as large as they may."""
        for _ in range(8):
            for peer in self.peers:
                self.send(peer)
            self.commit()
            self.look_round()

    def send(self, peer: Peer, samples: int = 5) -> bool:
        """Send a batch if the agent's window, as it was told last, has room; False: it has none."""
        progress = peer.session.progress
        if progress.outstanding_batches and progress.outstanding_batches >= told(peer).batches:
            return False
        peer.batch(*(Metric(ref=ref, cpu=1.0, mem=2, rx=3, tx=4) for ref in range(samples)))
        return True

    def commit(self) -> None:
        """The database is back: everything is committed, and its memory given back."""
        batches = list(self.lane.batches)
        self.lane.commit()
        for batch in batches:
            self.budget.give(batch.record.organisation, batch.memory_bytes)


def told(peer: Peer) -> Window:
    """The window that an agent was told last."""
    updates = [m for m in map(decode_agent_command, peer.socket.frames) if isinstance(m, WindowUpdate)]
    return Window(batches=updates[-1].batches, bytes=updates[-1].bytes) if updates else peer.session.window


def updates_of(peer: Peer) -> int:
    """How often an agent was told of another window."""
    return sum(isinstance(m, WindowUpdate) for m in map(decode_agent_command, peer.socket.frames))


async def test_a_window_begins_small_and_grows_with_acks() -> None:
    """A connection begins with four batches; while batches are stored its window doubles, up to that of the settings."""
    fleet = Fleet(2, 2**30)
    (peer, idle) = fleet.peers
    seen = [told(peer).batches]
    for _ in range(7):
        fleet.send(peer)
        fleet.commit()
        fleet.look_round()
        seen.append(told(peer).batches)

    assert seen == [4, 8, 16, 32, 64, 64, 64, 64]
    assert told(peer) == Window(batches=64, bytes=1_000_000)
    assert told(idle).batches == FIRST_BATCHES


async def test_more_hosts_share_what_there_is() -> None:
    """As hosts come to be known, those that were there are told of smaller windows; those that left count too."""
    fleet = Fleet(1, 2**20)
    fleet.grow()
    first = fleet.peers[0]
    alone = told(first)
    for number in range(20):
        fleet.registry.leave(fleet.join(f"other{number}").session)
    fleet.look_round()
    crowded = told(first)

    assert crowded.batches < alone.batches
    assert crowded.bytes < alone.bytes


async def test_an_organisation_shares_out_its_own_share() -> None:
    """Agents of an organisation that may take a tenth of the budget get windows out of that tenth."""
    whole, tenth = Fleet(10, 2**20), Fleet(10, 2**20, share=0.1)
    whole.grow()
    tenth.grow()

    assert told(tenth.peers[-1]).batches <= told(whole.peers[-1]).batches // 5


async def test_nobody_is_told_of_trifles() -> None:
    """A window that is hardly another is not told: one more agent among many is news for those only that stood at the edge."""
    fleet = Fleet(50, 2**20)
    fleet.grow()
    before = [updates_of(peer) for peer in fleet.peers]
    fleet.join("one-more")
    fleet.look_round()

    assert sum(updates_of(peer) for peer in fleet.peers[:50]) - sum(before) <= 5


@pytest.mark.parametrize("seed", range(3))
async def test_the_budget_holds_everything_while_the_database_is_away(seed: int) -> None:
    """All agents fill their windows with batches of any size and nothing is committed: the bound holds, nobody is closed."""
    chance = random.Random(seed)
    fleet = Fleet(200, 2**20)
    fleet.grow()
    for _ in range(100):  # ticks without a commit; agents obey what they were told
        for peer in fleet.peers:
            fleet.send(peer, chance.randint(1, 5))
        assert fleet.budget.used_bytes <= fleet.budget.limit_bytes
        fleet.windows.tick()
    full = fleet.budget.used_bytes

    # What stands between the parts granted and the bound is one batch of each.
    assert 0.5 * SHARED_OUT * fleet.budget.limit_bytes < full
    assert not any(fleet.send(peer) for peer in fleet.peers)
    assert all(peer.session.socket.closed is None for peer in fleet.peers)  # type: ignore[attr-defined]


async def test_who_comes_while_the_database_is_away_holds_little() -> None:
    """Agents that join one after another, each with a backlog, are not granted what those before them hold already."""
    fleet = Fleet(0, 2**21, share=0.5)
    for number in range(250):
        peer = fleet.join(f"h{number}")
        fleet.peers.append(peer)
        while fleet.send(peer):  # a PeerError would end the test: nobody may be closed
            pass
        fleet.windows.tick()
    for _ in range(30):
        fleet.windows.tick()
        for peer in fleet.peers:
            fleet.send(peer)

    assert fleet.budget.used_bytes < fleet.budget.share_bytes
    assert max(told(peer).batches for peer in fleet.peers) <= FIRST_BATCHES


async def test_a_takeover_is_not_closed_for_what_was_on_its_way() -> None:
    """The connection before may have left more on its way than the window that the next one begins with."""
    fleet = Fleet(1, 2**30)
    fleet.grow()
    old = fleet.peers[0]
    for _ in range(20):
        assert fleet.send(old)
    new = connect(
        fleet.registry, fleet.ingest, hello(*map(container, range(5)), connection=2, next_seq=old.seq + 1), host="h0"
    )
    assert new.session.window.batches == FIRST_BATCHES
    for _ in range(FIRST_BATCHES):
        new.batch(Metric(ref=0))

    assert new.session.progress.outstanding_batches == 20 + FIRST_BATCHES


async def test_windows_shrink_when_the_budget_fills_and_grow_again_after() -> None:
    """A budget that fills in spite of the windows makes them smaller, down to one batch; an empty one gives them back."""
    fleet = Fleet(4, 2**20)
    peer = fleet.peers[0]
    fleet.grow()
    easy = told(peer)
    fleet.budget.used_bytes = int(0.7 * 2**20)
    fleet.look_round()
    tight = told(peer)
    fleet.budget.used_bytes = int(0.95 * 2**20)
    fleet.look_round()
    least = told(peer)
    fleet.budget.used_bytes = 0
    fleet.look_round()
    assert told(peer) == least  # nothing was stored yet
    fleet.grow()

    assert least.batches == 1 < tight.batches < easy.batches
    assert told(peer).batches == easy.batches


async def test_a_smaller_window_holds_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent before the smaller window arrived is taken; once it must have arrived, more is refused with 4013."""
    fleet = Fleet(4, 2**20, window_batches=8)
    peer = fleet.peers[0]
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    fleet.grow()
    fleet.budget.used_bytes = int(0.92 * 2**20)
    fleet.look_round()
    assert told(peer).batches == 1

    for _ in range(3):  # under way when the smaller window was told
        peer.batch(Metric(ref=0))
    clock[0] += GRACE_SECONDS
    with pytest.raises(PeerError) as raised:
        peer.batch(Metric(ref=0))

    assert raised.value.error.code == ErrorCode.WINDOW_EXCEEDED


async def test_a_window_that_could_not_be_told_does_not_hold() -> None:
    """An agent that does not read keeps its window; it is told when it reads again."""
    fleet = Fleet(2, 2**20)
    peer = fleet.peers[0]
    before = peer.session.window
    peer.socket.takes = 0
    fleet.budget.used_bytes = int(0.95 * 2**20)
    fleet.look_round()

    assert peer.session.window == before
    peer.socket.takes = None
    fleet.look_round()
    assert peer.session.window == told(peer) != before


async def test_commits_make_room() -> None:
    """What is committed leaves the window when it is acked, and the agent goes on."""
    fleet = Fleet(1, 2**20, window_batches=2)
    peer = fleet.peers[0]
    assert [fleet.send(peer) for _ in range(3)] == [True, True, False]
    fleet.commit()

    assert fleet.budget.used_bytes == 0
    assert fleet.send(peer)
