"""The rows that the storage must, may or must not hold, made anew from a ledger and its seed.

They come in stored form: CPU as float32, text cleaned and cut, containers by their 63-bit key. Field by field they are
what a storage strategy reads, so a verifier compares tuples.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.protocol.canonical import clean_log_text
from server.protocol.identity import container_id
from simulator.expected_samples import NO_EXPECTED, ExpectedSamples, HostBlock, Told, blocks_of, one_per_key
from simulator.host import FakeHost, Input
from simulator.hosts import Host
from simulator.ledger import STATUSES, Course, Header, LedgerError, LedgerReader, Replayed, Status
from simulator.loglines import LogLines
from simulator.names import Names
from simulator.organisations import organisation
from simulator.recorded_agents import open_replayed
from simulator.recording import RecordingError
from simulator.replay import ReplayHost
from simulator.samples import Sample, Samples, in_tuples, samples_of

_STRETCH_TICKS = 512
"""As many ticks of a host are made at once: enough to spread numpy's cost per call, little enough to hold."""


_METRIC_PLACE = re.compile(r"metrics\[([0-9]+)\]")
_ACKED = STATUSES.index(Status.ACKED)

Acked = Mapping[tuple[int, int], int]
"""The highest acknowledged seq of each (agent, epoch)."""


class ExpectedLog(NamedTuple):
    """A log line as stored."""

    container_id: int
    at: int
    line: int
    stream: str
    text: str
    partial: bool
    truncated: bool


Line = tuple[ExpectedLog, Status, bool]
"""A line as stored, what the storage must hold of it, and whether it must be there."""


class _Keys(dict[int, int]):
    """The key of a host's container by its ref, made when it is asked for: re-created containers have ever new refs."""

    def __init__(self, org: str, host: Host) -> None:
        super().__init__()
        self._org, self._host = org, host
        for ref in host.lives.refs(0, 0):
            self[ref]

    def __missing__(self, ref: int) -> int:
        key = self[ref] = container_id(self._org, self._host.host_id, self._host.docker_id(ref))
        return key


class KnownHost(NamedTuple):
    """A host of a ledger's fleet."""

    fake: FakeHost | ReplayHost
    ids: Mapping[int, int]
    """The key of each container by its ref; every ref has one."""

    def samples(self, ticks: range) -> tuple[Samples, NDArray[np.int64]]:
        """The samples of some ticks, and the tick of each row: see `samples_of`."""
        if isinstance(self.fake, ReplayHost):
            return self.fake.stored(self.ids.__getitem__, ticks)
        return samples_of(self.fake, self.ids.__getitem__, ticks)


class ExpectedRows:
    """Regenerates the rows of a ledger. Build it once the ledger's header was read, and keep it while the file grows.

    Args:
        ledger: polled at least once; later polls show in later answers.

    Raises:
        LedgerError: the ledger has no header yet, or see `hosts_of`.
    """

    def __init__(self, ledger: LedgerReader) -> None:
        header = ledger.header
        if header is None:
            raise LedgerError("the ledger has no header yet: poll it until it has")
        self._ledger = ledger
        self._header = header
        self._make = hosts_of(header)
        self._hosts: dict[int, KnownHost] = {}
        self._blocks: dict[range, HostBlock] = {}
        self._applied: dict[int, int] = {}
        self._clocks_set: dict[int, int] = {}
        self._texts: dict[tuple[str, int], tuple[str, bool]] = {}

    def acked(self) -> Acked:
        """How far each (agent, epoch) is acknowledged by now."""
        return {key: course.acked for key, course in self._ledger.courses.items()}

    def samples(
        self, since: int, until: int, acked: Acked | None = None, *, only: int | None = None
    ) -> ExpectedSamples:
        """Samples with since <= at < until (Unix microseconds) of every agent.

        Args:
            since: first moment.
            until: first moment after.
            acked: what `acked` said when rows were last required to be there; None: now.
            only: one agent alone; None: all.
        """
        # A replayed agent's samples lie up to an interval from the time of their tick, others' at it.
        slack = self._header.interval_us if self._header.replayed is not None else 0
        parts, agents = [NO_EXPECTED], agents_of(self._header)
        if only is not None:
            agents = range(only, only + 1)
        elif self._header.replayed is None:
            for group in blocks_of(agents, self._header.containers):
                parts += self._of_group(group, since, until, acked)
            agents = range(0)
        for agent in agents:
            parts += self._of_agent(agent, since - slack, until + slack, acked)
        found = ExpectedSamples(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        if slack:
            inside = (found.rows["at"] >= since) & (found.rows["at"] < until)
            found = ExpectedSamples(found.rows[inside], found.status[inside], found.required[inside])
        return one_per_key(found) if self._ledger.clocks else found

    def metrics(self, since: int, until: int) -> list[tuple[Sample, Status]]:
        """The same one by one, ordered by (container_id, at)."""
        found = self.samples(since, until)
        statuses = [STATUSES[place] for place in found.status.tolist()]
        return sorted(zip(in_tuples(found.rows), statuses, strict=True), key=_metric_key)

    def logs(self, since: int, until: int) -> list[tuple[ExpectedLog, Status]]:
        """Lines with since <= at < until (Unix microseconds) of every agent, ordered by (container_id, at, line)."""
        return [(row, status) for row, status, _ in sorted(self.lines(since, until), key=_log_key)]

    def lines(self, since: int, until: int, acked: Acked | None = None) -> list[Line]:
        """The same in no order, and whether each must be there: see `samples`."""
        rows: list[Line] = []
        if not self._header.log_lines and self._header.replayed is None:
            return rows
        # A tick's lines lie up to one interval before it, a replayed one's on either side.
        before = self._header.interval_us if self._header.replayed is not None else 0
        after = self._header.interval_us
        for agent, epoch, host, course in self._courses():
            known = course.acked if acked is None else acked.get((agent, epoch), 0)
            fake, ids = host
            for run in _ticks_of(fake, since - before, until + after):
                for tick, seq, status, named in course.batches(run.start, run.stop):
                    for i, row in enumerate(fake.logs(tick)):
                        if since <= row.at < until:
                            text, cut = self._stored_text(row.text)
                            stored = ExpectedLog(
                                ids[row.ref], row.at, row.line, row.stream, text, row.partial, row.truncated or cut
                            )
                            found = named.get(f"logs[{i}]", status) if named else status
                            rows.append((stored, found, found is Status.ACKED and seq <= known))
        return one_line_per_key(rows) if self._ledger.clocks else rows

    def containers(self, since: int, until: int) -> set[int]:
        """Keys of the containers that the fleet had with since <= at < until (Unix microseconds), and perhaps of others."""
        found: set[int] = set()
        slack = self._header.interval_us
        for agent in agents_of(self._header):
            fake, ids = self._host(agent)
            for run in _ticks_of(fake, since - slack, until + slack):
                if run:
                    found.update(ids[ref] for ref in fake.lives.refs(run.start, run.stop - 1))
        return found

    def container(self, container: int) -> tuple[int, int] | None:
        """(agent, ref) of a container's key; None: no container of this fleet, or one that was not asked for so far."""
        for agent in agents_of(self._header):
            for ref, key in self._host(agent).ids.items():
                if key == container:
                    return agent, ref
        return None

    def _of_group(self, agents: range, since: int, until: int, acked: Acked | None) -> Iterator[ExpectedSamples]:
        """The samples of some agents: together, but for those of whom there is more to tell."""
        told = [self._told(agent, since, until, acked) for agent in agents]
        if any(told):
            block = self._blocks.get(agents)
            if block is None:
                fakes, ids = zip(*(self._host(agent) for agent in agents), strict=True)
                block = self._blocks[agents] = HostBlock(fakes, ids)
            yield from block.samples(told)
        for agent, one in zip(agents, told, strict=True):
            if one is None:
                yield from self._of_agent(agent, since, until, acked)

    def _told(self, agent: int, since: int, until: int, acked: Acked | None) -> Told | None:
        """What an agent did, if it is told in few words: one stretch, nothing dropped or rejected, a right clock."""
        if agent in self._ledger.clocks:
            return None
        fake = self._host(agent).fake
        first, end = fake.first_tick_at(since), fake.first_tick_at(until)
        found = [
            (epoch, course, ticks, seq)
            for epoch, course in enumerate(self._ledger.courses_of(agent))
            for ticks, seq in course.stretches(first, end)
        ]
        if len(found) != 1:
            return None
        ((epoch, course, ticks, seq),) = found
        if course.is_troubled(seq, len(ticks)):
            return None
        known = course.acked if acked is None else acked.get((agent, epoch), 0)
        return Told(ticks, ticks.start - seq, course.sent, course.acked, known)

    def _of_agent(self, agent: int, since: int, until: int, acked: Acked | None) -> Iterator[ExpectedSamples]:
        """The samples of one agent, whatever happened to it."""
        host = self._host(agent)
        for epoch, course in enumerate(self._ledger.courses_of(agent)):
            known = course.acked if acked is None else acked.get((agent, epoch), 0)
            for run in _ticks_of(host.fake, since, until):
                for ticks, seq in course.stretches(run.start, run.stop):
                    for start in range(0, len(ticks), _STRETCH_TICKS):
                        yield _stretch(host, course, ticks[start : start + _STRETCH_TICKS], seq + start, known)

    def _courses(self) -> Iterator[tuple[int, int, KnownHost, Course]]:
        for agent in agents_of(self._header):
            for epoch, course in enumerate(self._ledger.courses_of(agent)):
                yield agent, epoch, self._host(agent), course

    def _host(self, agent: int) -> KnownHost:
        host = self._hosts.get(agent)
        if host is None:
            host = self._hosts[agent] = self._make(agent)
        inputs = self._ledger.inputs.get(agent)
        if inputs:
            done = self._applied.get(agent, 0)
            new = inputs[done:]  # more may come while we apply them
            for record in new:
                host.fake.apply(Input(record.tick, record.ref, record.kind))
            self._applied[agent] = done + len(new)
        clocks = self._ledger.clocks.get(agent)
        if clocks:
            done = self._clocks_set.get(agent, 0)
            changes = clocks[done:]
            for change in changes:
                host.fake.clock.set(change.tick, change.ahead_us)
            self._clocks_set[agent] = done + len(changes)
        return host

    def _stored_text(self, text: str) -> tuple[str, bool]:
        key = text, self._ledger.log_text_bytes
        stored = self._texts.get(key)
        if stored is None:
            data, cut = clean_log_text(*key)
            stored = self._texts[key] = data.decode(), cut
        return stored


def one_line_per_key(rows: list[Line]) -> list[Line]:
    """`one_per_key` for log lines."""
    kept: list[Line] = []
    for _, group in groupby(sorted(rows, key=_log_key), _log_key):
        same = sorted(group, key=_line_status)
        row, status, _ = same[0]
        if len(same) > 1 and status is Status.UNKNOWN and same[1][1] is Status.UNKNOWN:
            status = Status.CONFLICTED
        kept.append((row, status, any(required for _, _, required in same)))
    return kept


def pool_digest(lines: LogLines, names: Names) -> str:
    """What a ledger's header says about the words of its seed."""
    return f"{lines.digest[:16]}{names.digest[:16]}"


def agents_of(header: Header) -> range:
    """The numbers of a ledger's agents."""
    return range(header.first_agent, header.first_agent + header.agents)


def hosts_of(header: Header) -> Callable[[int], KnownHost]:
    """Makes the hosts of a ledger's fleet, by their numbers.

    Raises:
        LedgerError: it was written with another Faker, so the words would differ; or of a recording that is not there, or
            another one.
    """
    if header.replayed is not None:
        return _replayed(header, header.replayed)
    lines, names = LogLines(header.seed), Names(header.seed)
    digest = pool_digest(lines, names)
    if digest != header.pool_digest:
        raise LedgerError(
            f"pool_digest = {header.pool_digest}: expected {digest} for seed {header.seed}; "
            "the ledger was written with another version of Faker"
        )

    def make(agent: int) -> KnownHost:
        fake = FakeHost(
            seed=header.seed,
            agent=agent,
            containers=header.containers,
            log_lines=header.log_lines,
            t0_us=header.t0_us,
            interval_us=header.interval_us,
            lines=lines,
            names=names,
            profiles=header.profiles,
            churn_ticks=header.churn_ticks,
        )
        return KnownHost(fake, _Keys(organisation(header.org, header.organisations, agent), fake))

    return make


def _replayed(header: Header, named: Replayed) -> Callable[[int], KnownHost]:
    try:
        recording = open_replayed(named)
    except RecordingError as error:
        raise LedgerError(f"the ledger is of a recording: {error}") from None

    def make(agent: int) -> KnownHost:
        start_us = 0 if header.ramp is None else header.ramp.start_us(agent)
        host = ReplayHost(recording, seed=header.seed, agent=agent, t0_us=header.t0_us, start_us=start_us)
        return KnownHost(host, _Keys(organisation(header.org, header.organisations, agent), host))

    return make


def _ticks_of(host: FakeHost | ReplayHost, since: int, until: int) -> Iterator[range]:
    """The ticks whose time is at least `since` and below `until` by the host's clock, in runs in which that is not set."""
    for ticks, ahead_us in host.clock.runs():
        # The first tick at or after `until` is the first outside.
        first, end = host.first_tick_at(since - ahead_us), host.first_tick_at(until - ahead_us)
        yield range(max(ticks.start, first), min(ticks.stop, end))


def _stretch(host: KnownHost, course: Course, ticks: range, first_seq: int, acked: int) -> ExpectedSamples:
    """The samples of some ticks that follow one another, and so do their seqs."""
    rows, tick = host.samples(ticks)
    place = tick - ticks.start
    status = course.statuses(first_seq, len(ticks))[place]
    for seq in course.rejected.keys() & range(first_seq, first_seq + len(ticks)) if course.rejected else ():
        first = int(np.searchsorted(place, seq - first_seq))
        for row, found in course.rejected[seq].items():
            if (named := _METRIC_PLACE.fullmatch(row)) is not None:
                status[first + int(named[1])] = STATUSES.index(found)
    return ExpectedSamples(rows, status, (status == _ACKED) & (place <= acked - first_seq))


def _metric_key(row: tuple[Sample, Status]) -> tuple[int, int]:
    return row[0][:2]


def _line_status(row: Line) -> int:
    return STATUSES.index(row[1])


def _log_key(row: Line) -> tuple[int, int, int]:
    return row[0][:3]
