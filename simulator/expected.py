"""The rows that the storage must, may or must not hold, made anew from a ledger and its seed.

They come in stored form: CPU as float32, text cleaned and cut, containers by their 63-bit key. Field by field they are
what a storage strategy reads, so a verifier compares tuples.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from server.protocol.canonical import clean_log_text, float32
from server.protocol.identity import container_id
from server.protocol.messages import Metric
from simulator.host import FakeHost, Input
from simulator.ledger import Course, Header, LedgerError, LedgerReader, ProducedBatch, Status
from simulator.loglines import LogLines
from simulator.names import Names

_STRETCH_TICKS = 64
"""As many ticks of a host are made at once: enough to spread numpy's cost per call, little enough to hold."""


class ExpectedMetric(NamedTuple):
    """A sample as stored. Times in Unix microseconds, memory and network in bytes, CPU in percent (100 = one core)."""

    container_id: int
    at: int
    cpu: float | None
    mem: int | None
    rx: int | None
    tx: int | None


class ExpectedLog(NamedTuple):
    """A log line as stored."""

    container_id: int
    at: int
    line: int
    stream: str
    text: str
    partial: bool
    truncated: bool


class _Keys(dict[int, int]):
    """The key of a host's container by its ref, made when it is asked for: re-created containers have ever new refs."""

    def __init__(self, org: str, fake: FakeHost) -> None:
        super().__init__()
        self._org, self._fake = org, fake
        for ref in range(fake.containers):
            self[ref]

    def __missing__(self, ref: int) -> int:
        key = self[ref] = container_id(self._org, self._fake.host_id, self._fake.docker_id(ref))
        return key


class _Host(NamedTuple):
    fake: FakeHost
    ids: _Keys


class ExpectedRows:
    """Regenerates the rows of a ledger. Build it once the ledger's header was read, and keep it while the file grows.

    Args:
        ledger: polled at least once; later polls show in later answers.

    Raises:
        LedgerError: the ledger has no header yet, or was written with another Faker, so the words would differ.
    """

    def __init__(self, ledger: LedgerReader) -> None:
        header = ledger.header
        if header is None:
            raise LedgerError("the ledger has no header yet: poll it until it has")
        self._ledger = ledger
        self._header = header
        self._lines, self._names = LogLines(header.seed), Names(header.seed)
        digest = pool_digest(self._lines, self._names)
        if digest != header.pool_digest:
            raise LedgerError(
                f"pool_digest = {header.pool_digest}: expected {digest} for seed {header.seed}; "
                "the ledger was written with another version of Faker"
            )
        self._hosts: dict[int, _Host] = {}
        self._applied: dict[int, int] = {}
        self._texts: dict[tuple[str, int], tuple[str, bool]] = {}

    def metrics(self, since: int, until: int) -> list[tuple[ExpectedMetric, Status]]:
        """Samples with since <= at < until (Unix microseconds) of every agent, ordered by (container_id, at)."""
        rows: list[tuple[ExpectedMetric, Status]] = []
        for host, course in self._courses():
            fake, ids = host
            # The first tick at or after `until` is the first outside.
            end = fake.first_tick_at(until)
            batches = course.batches(fake.first_tick_at(since), end)
            for (tick, _, status, named), samples in _with_samples(fake, batches, end):
                at = fake.at(tick)
                for i, row in enumerate(samples):
                    cpu = None if row.cpu is None else float32(row.cpu)
                    stored = ExpectedMetric(ids[row.ref], at, cpu, row.mem, row.rx, row.tx)
                    rows.append((stored, named.get(f"metrics[{i}]", status) if named else status))
        rows.sort(key=_metric_key)
        return rows

    def logs(self, since: int, until: int) -> list[tuple[ExpectedLog, Status]]:
        """Lines with since <= at < until (Unix microseconds) of every agent, ordered by (container_id, at, line)."""
        rows: list[tuple[ExpectedLog, Status]] = []
        interval_us = self._header.interval_us
        for host, course in self._courses():
            fake, ids = host
            # A tick's lines lie up to one interval before it.
            last = fake.first_tick_at(until + interval_us)
            for tick, _, status, named in course.batches(fake.first_tick_at(since), last):
                for i, row in enumerate(fake.logs(tick)):
                    if since <= row.at < until:
                        text, cut = self._stored_text(row.text)
                        stored = ExpectedLog(
                            ids[row.ref], row.at, row.line, row.stream, text, row.partial, row.truncated or cut
                        )
                        rows.append((stored, named.get(f"logs[{i}]", status) if named else status))
        rows.sort(key=_log_key)
        return rows

    def container(self, container: int) -> tuple[int, int] | None:
        """(agent, ref) of a container's key; None: no container of this fleet, or one that was not asked for so far."""
        for agent in self._agents():
            for ref, key in self._host(agent).ids.items():
                if key == container:
                    return agent, ref
        return None

    def _agents(self) -> range:
        return range(self._header.first_agent, self._header.first_agent + self._header.agents)

    def _courses(self) -> Iterator[tuple[_Host, Course]]:
        for agent in self._agents():
            for course in self._ledger.courses_of(agent):
                yield self._host(agent), course

    def _host(self, agent: int) -> _Host:
        host = self._hosts.get(agent)
        if host is None:
            host = self._hosts[agent] = _build(self._header, agent, self._lines, self._names)
        inputs = self._ledger.inputs.get(agent)
        if inputs:
            done = self._applied.get(agent, 0)
            for record in inputs[done:]:
                host.fake.apply(Input(record.tick, record.ref, record.kind))
            self._applied[agent] = len(inputs)
        return host

    def _stored_text(self, text: str) -> tuple[str, bool]:
        key = text, self._ledger.log_text_bytes
        stored = self._texts.get(key)
        if stored is None:
            data, cut = clean_log_text(*key)
            stored = self._texts[key] = data.decode(), cut
        return stored


def pool_digest(lines: LogLines, names: Names) -> str:
    """What a ledger's header says about the words of its seed."""
    return f"{lines.digest[:16]}{names.digest[:16]}"


def _build(header: Header, agent: int, lines: LogLines, names: Names) -> _Host:
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
    return _Host(fake, _Keys(header.org, fake))


def _with_samples(
    fake: FakeHost, batches: Iterable[ProducedBatch], end_tick: int
) -> Iterator[tuple[ProducedBatch, tuple[Metric, ...]]]:
    """Batches with rising ticks below `end_tick`, each with its samples."""
    start, made = 0, list[tuple[Metric, ...]]()
    for batch in batches:
        if batch.tick >= start + len(made):
            start = batch.tick
            made = fake.metrics_of(range(start, min(start + _STRETCH_TICKS, end_tick)))
        yield batch, made[batch.tick - start]


def _metric_key(row: tuple[ExpectedMetric, Status]) -> tuple[int, int]:
    return row[0][:2]


def _log_key(row: tuple[ExpectedLog, Status]) -> tuple[int, int, int]:
    return row[0][:3]
