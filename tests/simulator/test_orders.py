"""Commands are carried out at most once."""

from collections.abc import Callable

import pytest

from server.protocol.messages import Action, ActionKind
from simulator.counts import Counts
from simulator.delivery import Delivery
from simulator.host import FakeHost
from simulator.ledger import Executed, InputRecord, Record
from simulator.link import Session
from simulator.loglines import LogLines
from simulator.names import Names
from simulator.orders import MAX_KNOWN, Orders
from simulator.services import Timer

NOW_US = 1_700_000_000_000_000
LINES, NAMES = LogLines(5), Names(5)


class Book:
    """Services that only keep books."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.records: list[Record] = []

    def now_us(self) -> int:
        """A clock that stands."""
        return NOW_US

    def record(self, record: Record) -> None:
        """Keep it."""
        self.records.append(record)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Not asked for by orders."""
        raise NotImplementedError

    def dial(self, agent: int, session: Session, failed: Callable[[int | None, float | None], None]) -> None:
        """Not asked for by orders."""
        raise NotImplementedError

    def closed(self, code: int) -> None:
        """Not asked for by orders."""
        raise NotImplementedError

    def changed(self, delivery: Delivery) -> None:
        """Not asked for by orders."""
        raise NotImplementedError

    def acked(self, agent: int, due_us: int, at_us: int) -> None:
        """Not asked for by orders."""
        raise NotImplementedError


@pytest.fixture
def book() -> Book:
    """Empty books."""
    return Book()


@pytest.fixture
def orders(book: Book) -> Orders:
    """The commands of a host with three containers."""
    host = FakeHost(
        seed=5, agent=1, containers=3, log_lines=1, t0_us=NOW_US, interval_us=1_000_000, lines=LINES, names=NAMES
    )
    return Orders(host, book)


def action(action_id: str = "a", ref: int = 0, kind: ActionKind = "stop", expires_in_us: int = 30_000_000) -> Action:
    """A command."""
    return Action(action_id=action_id, ref=ref, kind=kind, expires_at=NOW_US + expires_in_us)


def test_a_command_waits_a_little_the_same_in_every_run(orders: Orders, book: Book) -> None:
    """The pause lies between 50 and 250 ms and depends on the id alone."""
    delay = orders.take(action("x"), NOW_US)

    assert delay is not None
    assert 0.05 <= delay < 0.25
    assert orders.take(action("y"), NOW_US) != delay
    assert book.counts.actions_executed == 0


def test_a_command_is_carried_out_and_reported(orders: Orders, book: Book) -> None:
    """Executing changes the container, writes the input and leaves a result to tell."""
    orders.take(action(ref=1), NOW_US)
    orders.execute(action(ref=1), 7)

    result = orders.result("a")
    assert result is not None
    assert result.outcome == "succeeded"
    assert book.records == [
        Executed(agent=1, action_id="a"),
        InputRecord(agent=1, tick=7, ref=1, kind="stop"),
    ]
    assert orders.changed == {1}
    assert orders.untold == {"a"}


def test_a_repeated_command_is_not_carried_out_again(orders: Orders, book: Book) -> None:
    """The same id comes thrice: it runs once, and its result is told again."""
    orders.take(action(), NOW_US)
    assert orders.take(action(), NOW_US) is None  # while it runs
    orders.execute(action(), 7)
    orders.untold.clear()

    assert orders.take(action(), NOW_US) is None
    assert orders.untold == {"a"}
    assert (book.counts.actions_executed, book.counts.actions_repeated) == (1, 2)
    assert sum(isinstance(record, Executed) for record in book.records) == 1


def test_a_repeated_command_stays_known_after_its_result_was_acknowledged(orders: Orders) -> None:
    """An acknowledged result does not make its command runnable again."""
    orders.take(action(), NOW_US)
    orders.execute(action(), 7)
    orders.acknowledged("a")

    assert orders.take(action(), NOW_US) is None
    assert orders.untold == set()


def test_a_late_command_is_answered_expired(orders: Orders, book: Book) -> None:
    """Past `expires_at` in server time nothing is done."""
    assert orders.take(action(expires_in_us=-1), NOW_US) is None

    result = orders.result("a")
    assert result is not None
    assert result.outcome == "expired"
    assert book.counts.actions_expired == 1
    assert orders.take(action("b"), NOW_US + 30_000_001) is None  # by the server's clock


def test_an_unknown_container_is_answered_failed(orders: Orders) -> None:
    """The answer names the ref."""
    orders.take(action(ref=9), NOW_US)
    orders.execute(action(ref=9), 7)

    result = orders.result("a")
    assert result is not None
    assert (result.outcome, result.detail) == ("failed", "ref = 9: no such container")


def test_a_command_without_effect_succeeds_and_leaves_no_input(orders: Orders, book: Book) -> None:
    """Starting what runs is a success that changes no row; that it was carried out is told all the same."""
    orders.take(action(kind="start"), NOW_US)
    orders.execute(action(kind="start"), 7)

    result = orders.result("a")
    assert result is not None
    assert result.outcome == "succeeded"
    assert book.records == [Executed(agent=1, action_id="a")]


def test_results_are_told_on_every_connection_until_acknowledged(orders: Orders) -> None:
    """A new connection begins with what was not acknowledged."""
    for name in ("a", "b"):
        orders.take(action(name), NOW_US)
        orders.execute(action(name), 7)
    orders.untold.clear()
    orders.acknowledged("a")

    assert [report.action_id for report in orders.retell()] == ["b"]
    assert orders.untold == {"b"}


def test_ids_without_end_do_not_fill_memory(orders: Orders, book: Book) -> None:
    """Past 1000 remembered ids a command is passed over; long after they expired new ones are taken."""
    for number in range(MAX_KNOWN + 5):
        orders.take(action(str(number)), NOW_US)
    assert book.counts.actions_refused == 5

    later_us = NOW_US + 30_000_000 + 60_000_001
    late = Action(action_id="late", ref=0, kind="stop", expires_at=later_us + 1)
    assert orders.take(late, later_us) is not None
    assert len(orders._known) == 1


def test_troubled_commands_are_late_or_refused(book: Book) -> None:
    """By seed and id half of them take seconds, and half fail in Docker's words; what is refused changes nothing."""
    host = FakeHost(
        seed=5, agent=1, containers=3, log_lines=1, t0_us=NOW_US, interval_us=1_000_000, lines=LINES, names=NAMES,
        troubled_commands=0.5,
    )  # fmt: skip
    orders = Orders(host, book)
    seen = {name: host.handling(name) for name in map(str, range(400))}
    refused = next(name for name, handling in seen.items() if handling.refusal)

    late = [handling.seconds for handling in seen.values() if handling.seconds > 1]
    assert 60 < len(late) < 140
    assert max(late) < 10.5
    assert 60 < sum(bool(handling.refusal) for handling in seen.values()) < 140
    assert seen == {name: host.handling(name) for name in seen}

    orders.take(action(refused), NOW_US)
    orders.execute(action(refused), 7)
    result = orders.result(refused)
    assert result is not None
    assert (result.outcome, result.detail) == ("failed", seen[refused].refusal)
    assert (book.counts.actions_failed, book.counts.actions_executed, book.records) == (1, 0, [])
    assert host.container(0, 7).state == "running"


def test_a_container_that_is_gone_cannot_be_commanded(book: Book) -> None:
    """A command for what was re-created meanwhile fails, and says so."""
    host = FakeHost(
        seed=5, agent=1, containers=3, log_lines=1, t0_us=NOW_US, interval_us=1_000_000, lines=LINES, names=NAMES,
        churn_ticks=10,
    )  # fmt: skip
    orders = Orders(host, book)
    orders.take(action(ref=0), NOW_US)
    orders.execute(action(ref=0), 500)

    result = orders.result("a")
    assert result is not None
    assert (result.outcome, result.detail) == ("failed", "ref = 0: no such container")
