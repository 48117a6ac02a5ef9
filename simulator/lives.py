"""When the containers of a host run: what the seed does to them, and what commands did.

The seed re-creates containers (churn) and lets some die and restart for ever (`Loop`); both are functions of the tick.
Commands are inputs: the same inputs give the same lives.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from server.protocol.messages import ContainerState
from simulator.profiles import Loop
from simulator.signals import key_of, noise

InputKind = Literal["start", "stop", "restart"]

FOREVER: Final = 1 << 62
MIN_CHURN_TICKS: Final = 10
"""A container lives for some ticks at least on average, or its fleet would do nothing but re-create."""


class Input(NamedTuple):
    """Something that the seed does not hold: a command that was carried out after `tick` and before the next."""

    tick: int
    ref: int
    kind: InputKind


class Spell(NamedTuple):
    """A stretch of ticks through which a container stays what it is."""

    ref: int
    """Of the container that has this place on the host."""
    since: int
    """The tick since which it runs; may lie before 0. Of no meaning while it does not."""
    state: ContainerState
    until: int
    """The first tick after the stretch."""


class _Order(NamedTuple):
    """What a command made of a container."""

    first_tick: int
    runs: bool


def most_churn_per_hour(containers: int, interval_us: int) -> float:
    """The most containers of a host that may be re-created in an hour."""
    return containers * 3_600_000_000 / (interval_us * MIN_CHURN_TICKS)


class Lives:
    """The lives of one host's containers.

    A host has a fixed number of places. The container at place p is, in its n-th generation, ref p + n * places: a
    re-created one has another ref and another Docker id, and the same Compose service.

    Args:
        key: of the host's noise.
        places: containers at any time.
        churn_ticks: each place is re-created once in so many ticks, at an uneven time; 0: never.
        loops: of the places whose containers die again and again.

    Attributes:
        loops: as given.
    """

    __slots__ = ("_churn_key", "_churn_ticks", "_orders", "_places", "_quiet_until", "_running", "loops")

    def __init__(self, key: int, places: int, churn_ticks: int, loops: Mapping[int, Loop]) -> None:
        self._churn_key = key_of(key, 3)
        self._places, self._churn_ticks, self.loops = places, churn_ticks, loops
        self._orders: dict[int, tuple[_Order, ...]] = {}
        self._quiet_until = 0
        self._running: tuple[int, int, Sequence[int]] = (0, 0, ())

    def spell(self, place: int, tick: int) -> Spell:
        """The stretch around `tick`, from 0 on, of the container at `place`."""
        generation, born, until = self._generation(place, tick)
        ref = place + generation * self._places
        orders = self._orders.get(ref)
        started_by_order = False
        if orders is not None:
            for order in reversed(orders):
                if order.first_tick <= tick:
                    if not order.runs:
                        return Spell(ref, order.first_tick, "exited", until)
                    born, started_by_order = order.first_tick, True
                    break
                until = min(until, order.first_tick)
        loop = self.loops.get(place)
        if loop is None:
            return Spell(ref, born, "running", until)
        if not generation and not started_by_order:
            born -= loop.phase_ticks
        since = tick - (tick - born) % loop.period_ticks
        if tick - since < loop.up_ticks:
            return Spell(ref, since, "running", min(until, since + loop.up_ticks))
        return Spell(ref, since, "restarting", min(until, since + loop.period_ticks))

    def state(self, ref: int, tick: int) -> ContainerState:
        """The state at `tick` of a container that was there by then."""
        spell = self.spell(ref % self._places, tick)
        return spell.state if spell.ref == ref else "removed"

    def apply(self, change: Input) -> bool:
        """Carry out a command; it shows from the tick after `change.tick` on.

        Inputs come in the order of their ticks. Starting what runs and stopping what does not changes nothing; what
        waits for its restart counts as running.

        Returns:
            Whether the container's state or start changed.

        Raises:
            KeyError: there is no such container, or not any more.
        """
        first = change.tick + 1
        if change.ref < 0 or self.spell(change.ref % self._places, first).ref != change.ref:
            raise KeyError(change.ref)
        orders = self._orders.get(change.ref, ())
        runs = change.kind != "stop"
        if change.kind != "restart" and (not orders or orders[-1].runs) == runs:
            return False
        # Two commands between the same two ticks: only the later one is ever seen.
        kept = orders if not orders or orders[-1].first_tick < first else orders[:-1]
        self._orders[change.ref] = (*kept, _Order(first, runs))
        self._quiet_until = min(self._quiet_until, self.spell(change.ref % self._places, first).until)
        self._running = (0, 0, ())
        return True

    def running(self, tick: int) -> Sequence[int]:
        """Refs of what runs at a tick, in the order of their places."""
        first, until, refs = self._running
        if not first <= tick < until:
            spells = {place: self.spell(place, tick) for place in self.changing()}
            refs = range(self._places)
            if spells:
                known = (spells.get(place) for place in refs)
                refs = [
                    place if spell is None else spell.ref
                    for place, spell in enumerate(known)
                    if spell is None or spell.state == "running"
                ]
            self._running = tick, min((spell.until for spell in spells.values()), default=FOREVER), refs
        return refs

    def changing(self) -> Sequence[int]:
        """Places whose containers do not just run for ever."""
        if self._churn_ticks:
            return range(self._places)
        return sorted({*self.loops, *(ref % self._places for ref in self._orders)})

    def turned(self, before: int, tick: int) -> Sequence[int]:
        """Refs of what the seed made at `tick` of what it was at `before`, gone ones included. For ticks that only rise.

        Most commands are left out: whoever applies one knows.
        """
        if tick < self._quiet_until:
            return ()
        refs, quiet_until = set[int](), FOREVER
        for place in self.changing():
            was, now = self.spell(place, before), self.spell(place, tick)
            quiet_until = min(quiet_until, now.until)
            if was[:3] != now[:3]:
                refs.update((was.ref, now.ref))
        self._quiet_until = quiet_until
        return sorted(refs)

    def recreated(self, turned: Sequence[int]) -> int:
        """Places whose container is another now than before, by the refs that `turned` told of: it tells both of each."""
        return len(turned) - len({ref % self._places for ref in turned})

    def refs(self, first: int, last: int) -> list[int]:
        """Refs of what there is at the tick `last`, by place, and then of what is gone and was there at `first` or later."""
        now = [self.spell(place, last).ref for place in range(self._places)]
        if not self._churn_ticks:
            return now
        gone = [
            ref
            for place, newest in enumerate(now)
            for ref in range(self.spell(place, max(0, first)).ref, newest, self._places)
        ]
        return now + gone

    def forget(self, before: int) -> None:
        """Drop what only ticks below `before` need, so that commands without end do not fill memory."""
        if not self._orders:
            return
        for ref, orders in tuple(self._orders.items()):
            if self.spell(ref % self._places, before).ref > ref:
                del self._orders[ref]
                continue
            past = sum(order.first_tick <= before for order in orders)
            self._orders[ref] = orders[max(0, past - 1) :]

    def _generation(self, place: int, tick: int) -> tuple[int, int, int]:
        """How often the place was re-created by `tick`, when last, and when it will be next."""
        period = self._churn_ticks
        if not period:
            return 0, 0, FOREVER
        number = tick // period
        cut = self._cut(place, number)
        if tick >= cut:
            return number + 1, cut, self._cut(place, number + 1)
        return number, (self._cut(place, number - 1) if number else 0), cut

    def _cut(self, place: int, number: int) -> int:
        """When the place is re-created in its `number`-th period: after the first tick of it."""
        period = self._churn_ticks
        return number * period + 1 + noise(self._churn_key + place, number) % (period - 1)
