"""A scenario: one TOML file that says what to run and when the outcome is good.

`load` reads a file against the keys of `simulator.scenario_format` and reports every mistake at once. What it returns
has been checked, so nothing after it asks again. The names of metrics are not known here: `loadtests.thresholds` checks
those.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from simulator.lives import most_churn_per_hour
from simulator.profiles import DEFAULT_MIX
from simulator.scenario_faults import Fault, begins, conflicts, defaults_of, fault_of
from simulator.scenario_format import (
    FAULT_KEYS,
    KEYS,
    OPERATORS,
    PHASES,
    THRESHOLD_KEYS,
    Key,
    Problem,
    ScenarioError,
    bound,
    environment,
    seconds,
    unknown,
)
from simulator.scenario_shapes import Shape, make_shape
from simulator.scenario_shapes import conflicts as shape_conflicts

__all__ = [
    "NO_THRESHOLD",
    "Actions",
    "Fault",
    "Fleet",
    "Problem",
    "Scenario",
    "ScenarioError",
    "Server",
    "Shape",
    "Storage",
    "Threshold",
    "Ui",
    "load",
]

_METRIC_STAT = re.compile(r"[a-z0-9_]+\.[a-z0-9]+")
_FAULT_KEY = re.compile(r"fault\[([0-9]+)\]\.(.+)", re.DOTALL)
_SECTIONS = (*dict.fromkeys(key.rpartition(".")[0] for key in KEYS if "." in key), "server.env", "thresholds")
_WHOLE = frozenset({"fleet.profiles"})
"""Keys whose value is a table."""
_BROWSERS = ("ui.subscribers", "ui.slow", "ui.reconnecting")
_USERS = (*_BROWSERS, "ui.chart_readers", "ui.log_downloaders", "ui.auditors", "actions.operators")
_OF_USERS = {
    "ui.spawn_rate": _USERS,
    "ui.visit": _BROWSERS,
    "ui.shape.kind": ("ui.subscribers",),
    "actions.per_second": ("actions.operators",),
}
"""How users behave, and the users of whom one at least must be there."""
_SHORTER_THAN = {"fleet.ramp": "duration", "fleet.interval": "duration", "storage.prune_interval": "storage.retention"}


class Fleet(Struct, frozen=True, kw_only=True):
    """The simulated agents."""

    agents: int
    containers: int
    """Per agent."""
    interval_seconds: float
    log_lines: int
    """Per agent and interval."""
    ramp_seconds: float
    processes: int
    transport: str
    profiles: dict[str, int] = field(default_factory=lambda: dict(DEFAULT_MIX))
    """Weights of what the containers do."""
    churn_per_hour: float = 0.0
    """Containers of an agent that are re-created in an hour."""
    troubled_commands: float = 0.0
    """Share of the commands that a host carries out late, or refuses."""

    @property
    def interval_us(self) -> int:
        """The interval in microseconds."""
        return round(self.interval_seconds * 1_000_000)


class Ui(Struct, frozen=True, kw_only=True):
    """The simulated users who look."""

    subscribers: int
    chart_readers: int
    log_downloaders: int
    auditors: int
    spawn_rate: float
    """Users of all kinds started a second."""
    slow: int = 0
    reconnecting: int = 0
    visit_seconds: float = 25.0
    """How long a browser stays, give or take a fifth."""
    processes: int = 1
    """Of Locust."""
    shape: Shape = Shape()
    """Of `subscribers`; the others come at the start."""


class Actions(Struct, frozen=True, kw_only=True):
    """The simulated users who act."""

    operators: int
    per_second: float
    """Attempts, of all operators together."""


class Server(Struct, frozen=True, kw_only=True):
    """The server under test."""

    restart: bool
    log_level: str
    env: dict[str, str]


class Storage(Struct, frozen=True, kw_only=True):
    """How rows are kept, and for how long."""

    strategy: str
    retention_seconds: float
    prune_interval_seconds: float
    backfill_seconds: float
    """History that is there when the fleet starts; 0: none."""


class Threshold(Struct, frozen=True, kw_only=True):
    """A bound on one statistic of one metric."""

    metric: str
    stat: str
    op: str
    limit: float
    phase: str = ""
    """Of `PHASES`; empty: the whole run."""
    abort: bool = False
    """Whether the run ends when it is broken."""
    grace_seconds: float = 0.0
    """How long it must be broken without a break before the run ends; 0 without `abort`."""

    @property
    def key(self) -> str:
        """The name as it stands in a scenario: `ack_latency_ms.p99`, `after.ack_latency_ms.p99`."""
        return ".".join(filter(None, (self.phase, self.metric, self.stat)))

    @property
    def bound(self) -> str:
        """The bound as it stands in a scenario: `< 1000`."""
        return f"{self.op} {self.limit:.15g}"

    def holds(self, value: float) -> bool:
        """Whether `value` keeps the bound. NaN keeps none."""
        return OPERATORS[self.op](value, self.limit)


class Scenario(Struct, frozen=True, kw_only=True):
    """A scenario as it will be run: file, overrides and defaults put together, and checked."""

    name: str
    """The file's name without its suffix."""
    path: str
    question: str
    duration_seconds: float
    seed: int
    settle_seconds: float
    """How long after its end a fault still counts as going on."""
    fleet: Fleet
    ui: Ui
    actions: Actions
    server: Server
    storage: Storage
    faults: tuple[Fault, ...]
    """In the order in which they happen."""
    thresholds: tuple[Threshold, ...]

    @property
    def users(self) -> int:
        """Simulated users of all kinds."""
        ui = self.ui
        readers = ui.chart_readers + ui.log_downloaders + ui.auditors
        return ui.subscribers + ui.slow + ui.reconnecting + readers + self.actions.operators

    def describe(self) -> str:
        """One paragraph for people: the question, and what will run."""
        fleet, ui, storage = self.fleet, self.ui, self.storage
        rows = fleet.agents * fleet.containers / fleet.interval_seconds
        lines = fleet.agents * fleet.log_lines / fleet.interval_seconds
        sentences = [
            self.question.strip(),
            f"{fleet.agents} agents of {fleet.containers} containers report every {seconds(fleet.interval_seconds)}.",
            f"That is {rows:,.0f} samples/s and {lines:,.0f} log lines/s for {seconds(self.duration_seconds)}.",
            f"The seed is {self.seed}.",
            f"{ui.subscribers} browsers watch." if ui.subscribers else "No browser watches.",
            *self._others(),
            *([f"It goes on from {seconds(storage.backfill_seconds)} of history."] if storage.backfill_seconds else []),
            f"Storage {storage.strategy} keeps {seconds(storage.retention_seconds)}.",
            f"It is pruned every {seconds(storage.prune_interval_seconds)}.",
        ]
        if self.faults:
            sentences.append(f"Faults: {', '.join(fault.describe() for fault in self.faults)}.")
        return " ".join(sentences)

    def _others(self) -> list[str]:
        """Who uses the API beside the browsers."""
        found = []
        if self.ui.shape.kind != "steady":
            found.append(f"Their shape is {self.ui.shape.describe()}.")
        if self.actions.operators:
            found.append(f"{self.actions.operators} operators make {self.actions.per_second:g} attempts/s.")
        counts = {
            "browse slowly": self.ui.slow,
            "browse and reconnect": self.ui.reconnecting,
            "read charts": self.ui.chart_readers,
            "download logs": self.ui.log_downloaders,
            "read the audit log": self.ui.auditors,
        }
        told = [f"{count} {what}" for what, count in counts.items() if count]
        return [*found, f"{', '.join(told)}."] if told else found


NO_THRESHOLD = "none"
"""As an override of a threshold: take it out of the run."""


def load(path: Path, overrides: Mapping[str, str] = {}) -> Scenario:
    """Read the scenario at `path`.

    Args:
        path: the TOML file.
        overrides: values as text by key path (`{"fleet.agents": "500"}`); they beat the file, which beats the defaults.

    Raises:
        ScenarioError: the file cannot be read, or holds mistakes; it names all of them.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(Problem(str(path), "", ..., f"cannot be read: {error.strerror}")) from None
    except UnicodeDecodeError as error:
        raise ScenarioError(Problem(str(path), "", ..., f"expected UTF-8; byte {error.start} is not")) from None
    except (ValueError, RecursionError) as error:  # ValueError: TOMLDecodeError, and integers of over 4300 digits
        raise ScenarioError(Problem(str(path), "", ..., f"expected TOML: {error}")) from None
    return _Reader(path, document, overrides).scenario()


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by key path. `"a.b" = 1` and `a.b = 1` are the same, so thresholds may be written without quotes."""
    for name, value in table.items():
        path = prefix + name
        if isinstance(value, dict) and path not in _WHOLE:
            yield from _flat(value, path + ".")
        elif path == "fault" and isinstance(value, list):
            for i, item in enumerate(value):
                if isinstance(item, dict):
                    yield from _flat(item, f"fault[{i}].")
                else:
                    yield f"fault[{i}]", item
        else:
            yield path, value


class _Reader:
    """Reads one document and gathers its mistakes."""

    def __init__(self, path: Path, document: Mapping[str, Any], overrides: Mapping[str, str]) -> None:
        self._path = path
        self._overrides = overrides
        self._problems: list[Problem] = []
        self._given: dict[str, Any] = {}
        self._values: dict[str, Any] = {}
        self._env: dict[str, str] = {}
        self._bounds: dict[str, dict[str, Any]] = {}
        """The keys of each threshold, by its name."""
        faults = document.get("fault", [])
        self._faults: list[dict[str, Any]] = [{} for _ in faults] if isinstance(faults, list) else []
        for key, value in _flat(document):
            if key in self._given:
                self._wrong(key, value, "given twice")
            self._given[key] = value
        for key, text in overrides.items():
            parts = [given for given in self._given if given == key or given.startswith(f"{key}.")]
            if text == NO_THRESHOLD and parts and key.startswith("thresholds."):
                for part in parts:
                    del self._given[part]
            else:
                known = KEYS.get(key) or (_threshold_key(key) if key.startswith("thresholds.") else None)
                self._given[key] = _from_text(known, text) if known else text

    def scenario(self) -> Scenario:
        """The checked scenario.

        Raises:
            ScenarioError: with every mistake found.
        """
        for key, known in KEYS.items():
            if key not in self._given:
                self._default(key, known, self._values, key)
        for key, value in self._given.items():
            try:
                self._read(key, value)
            except ValueError as wrong:
                self._wrong(key, value, str(wrong))
        for i, fault in enumerate(self._faults):
            for name, default in tuple(defaults_of(fault)):
                if f"fault[{i}].{name}" not in self._given and f"fault[{i}]" not in self._given:
                    self._default(f"fault[{i}].{name}", FAULT_KEYS[name]._replace(default=default), fault, name)
        self._check_combinations()
        thresholds = tuple(self._thresholds())
        if self._problems:
            raise ScenarioError(*self._problems)
        return Scenario(
            name=self._path.stem,
            path=str(self._path),
            question=self._values["question"],
            duration_seconds=self._values["duration"],
            seed=self._values["seed"],
            settle_seconds=self._values["settle"],
            fleet=Fleet(**self._section("fleet", "interval", "ramp")),
            ui=Ui(**self._section("ui", "visit"), shape=make_shape(self._values)),
            actions=Actions(**self._section("actions")),
            server=Server(**self._section("server"), env=self._env),
            storage=Storage(**self._section("storage", "retention", "prune_interval", "backfill")),
            faults=tuple(map(fault_of, sorted(self._faults, key=begins))),
            thresholds=thresholds,
        )

    def _section(self, name: str, *durations: str) -> dict[str, Any]:
        """The values of a table by field name; durations carry their unit in it."""
        prefix = name + "."
        leaves = [key.removeprefix(prefix) for key in KEYS if key.rpartition(".")[0] == name]
        return {leaf + "_seconds" * (leaf in durations): self._values[prefix + leaf] for leaf in leaves}

    def _read(self, key: str, value: object) -> None:
        fault = _FAULT_KEY.fullmatch(key)
        if key in KEYS:
            self._values[key] = KEYS[key].read(value)
        elif key.startswith("thresholds."):
            name, part = _threshold_parts(key.removeprefix("thresholds."))
            read = THRESHOLD_KEYS[part].read(value)
            parts = self._bounds.setdefault(name, {})
            if part in parts and key not in self._overrides:
                raise ValueError("given twice")
            parts[part] = read
        elif key.startswith("server.env."):
            name = key.removeprefix("server.env.")
            self._env[name] = environment(name, value)
        elif fault and key not in self._overrides and int(fault[1]) < len(self._faults):
            if fault[2] not in FAULT_KEYS:
                raise ValueError(unknown(fault[2], FAULT_KEYS, "key"))
            self._faults[int(fault[1])][fault[2]] = FAULT_KEYS[fault[2]].read(value)
        else:
            raise ValueError(_unknown_key(key))

    def _default(self, key: str, known: Key, into: dict[str, Any], name: str) -> None:
        if known.default is ...:
            self._wrong(key, ..., f"missing; {known.meaning[0].lower()}{known.meaning[1:]}")
        else:
            into[name] = known.read(known.default)

    def _thresholds(self) -> Iterator[Threshold]:
        """The thresholds, and what is wrong with them as a whole."""
        for name, parts in self._bounds.items():
            key = f"thresholds.{name}"
            if "bound" not in parts:
                if not {key, f"{key}.bound"} & self._given.keys():
                    self._wrong(key, ..., 'missing; expected a bound, such as bound = "< 1000"')
                continue
            *phases, metric, stat = name.split(".")
            phase = "".join(phases)
            abort = parts.get("abort", False)
            if phase and not self._faults:
                self._wrong(key, parts["bound"], f"there is no {phase}: the scenario has no fault")
            if phase and abort:
                self._wrong(f"{key}.abort", abort, "cannot end a run: a phase is judged when the run is over")
            if "grace" in parts and not abort:
                self._wrong(f"{key}.grace", self._given[f"{key}.grace"], "has no effect without abort = true")
            op, limit = bound(parts["bound"])
            yield Threshold(
                metric=metric, stat=stat, op=op, limit=limit, phase=phase, abort=abort,
                grace_seconds=parts.get("grace", THRESHOLD_KEYS["grace"].read(THRESHOLD_KEYS["grace"].default))
                if abort else 0.0,
            )  # fmt: skip

    def _check_combinations(self) -> None:
        """What no single key shows. A key with a mistake of its own is left out."""
        values = self._values
        for key, expected in conflicts(
            self._faults,
            values.get("duration"),
            restart=values.get("server.restart") is not False,
            agents=values.get("fleet.agents"),
            retention=values.get("storage.retention"),
        ):
            self._conflict(key, expected)
        for shorter, longer in _SHORTER_THAN.items():
            if shorter in values and longer in values and values[shorter] >= values[longer]:
                self._conflict(shorter, f"must be shorter than {longer} ({seconds(values[longer])})")
        if {"fleet.containers", "fleet.interval", "fleet.churn_per_hour"} <= values.keys():
            most = most_churn_per_hour(values["fleet.containers"], round(values["fleet.interval"] * 1e6))
            if values["fleet.churn_per_hour"] > most:
                expected = f"at most {most:g}, so that a container lives for some intervals"
                self._conflict("fleet.churn_per_hour", f"expected {expected}")
        agents = values.get("fleet.agents")
        if agents is not None and values.get("fleet.processes", 1) > agents:
            self._conflict("fleet.processes", f"must not exceed fleet.agents ({agents}): an agent for each")
        if values.get("storage.backfill", 0) > values.get("storage.retention", inf):
            self._conflict(
                "storage.backfill",
                f"must not be longer than storage.retention ({seconds(values['storage.retention'])})",
            )
        if 0 < values.get("storage.backfill", 0) < values.get("fleet.interval", 0):
            self._conflict(
                "storage.backfill", f"must not be shorter than fleet.interval ({seconds(values['fleet.interval'])})"
            )
        self._check_users()

    def _check_users(self) -> None:
        values = self._values
        for key, expected in shape_conflicts(values, self._given):
            self._conflict(key, expected)
        users = sum(values.get(key, 0) for key in _USERS)
        if values.get("ui.processes", 1) > max(1, users):
            self._conflict("ui.processes", f"must not exceed the simulated users ({users}): a user for each")
        for key, kinds in _OF_USERS.items():
            # A flag may switch off the users of a file; a file that does so itself says two things.
            idle = all(values.get(kind) == 0 for kind in kinds) and not any(kind in self._overrides for kind in kinds)
            if idle and key in self._given:
                self._conflict(key, f"has no effect without {' or '.join(kinds)}")

    def _conflict(self, key: str, expected: str) -> None:
        default = KEYS[key].default if key in KEYS else FAULT_KEYS[key.rpartition(".")[2]].default
        self._wrong(key, self._given.get(key, default), expected)

    def _wrong(self, key: str, value: object, expected: str) -> None:
        source = "override" if key in self._overrides else str(self._path)
        self._problems.append(Problem(source, key, value, expected))


def _threshold_parts(path: str) -> tuple[str, str]:
    """Name and key of a part of a threshold: `after.ack_latency_ms.p99`, `bound`.

    Raises:
        ValueError: it names no threshold.
    """
    words = path.split(".")
    phase = words[:1] if words[0] in PHASES else []
    name, part = ".".join(words[len(phase) : len(phase) + 2]), ".".join(words[len(phase) + 2 :])
    if not _METRIC_STAT.fullmatch(name):
        raise ValueError("expected a metric and a statistic, such as ack_latency_ms.p99, or a phase before them")
    if part and part not in THRESHOLD_KEYS:
        strange = not phase and len(words) == 3 and not difflib.get_close_matches(part, THRESHOLD_KEYS, n=1)
        raise ValueError(unknown(words[0], PHASES, "phase") if strange else unknown(part, THRESHOLD_KEYS, "key"))
    return ".".join((*phase, name)), part or "bound"


def _threshold_key(key: str) -> Key | None:
    try:
        return THRESHOLD_KEYS[_threshold_parts(key.removeprefix("thresholds."))[1]]
    except ValueError:
        return None


def _from_text(known: Key, text: str) -> object:
    """An override as a file would hold it: a number or a flag where the key takes one, or else the text."""
    if not isinstance(known.default, int | float):
        return text
    if text in {"true", "false"}:
        return text == "true"
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _unknown_key(key: str) -> str:
    if key in _SECTIONS:
        return f"expected a table, [{key}]"
    if key.startswith(("fault.", "fault[")) or key == "fault":
        return "expected [[fault]] tables, in the file"
    section, dot, leaf = key.rpartition(".")
    if section in _SECTIONS:
        prefix = section + dot
        return unknown(leaf, [known.removeprefix(prefix) for known in KEYS if known.startswith(prefix)], "key")
    # `agents` at the top level most likely means `fleet.agents`.
    homes = [known for known in KEYS if known.rpartition(".")[2] == leaf]
    if homes:
        return f"unknown key; did you mean {homes[0]}?"
    return unknown(key, [*(known for known in (*KEYS, *_SECTIONS) if "." not in known), "fault"], "key")
