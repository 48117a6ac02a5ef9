"""A scenario: one TOML file that says what to run and when the outcome is good.

`load` reads a file against the keys of `simulator.scenario_format` and reports every mistake at once. What it returns
has been checked, so nothing after it asks again. The names of metrics are not known here: `loadtests.thresholds` checks
those.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from simulator.lives import most_churn_per_hour
from simulator.profiles import DEFAULT_MIX
from simulator.scenario_faults import Fault, begins, conflicts, defaults_of, fault_of
from simulator.scenario_files import EXTENDS, Layer, leaves, locate, read_layers
from simulator.scenario_format import (
    FAULT_KEYS,
    KEYS,
    NO_SETTING,
    THRESHOLD_KEYS,
    Key,
    Problem,
    ScenarioError,
    bound,
    environment,
    postgres_setting,
    seconds,
    unknown,
)
from simulator.scenario_shapes import Shape, make_shape
from simulator.scenario_shapes import conflicts as shape_conflicts
from simulator.scenario_thresholds import NO_THRESHOLD, Threshold, threshold_name, threshold_part, threshold_parts

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

_FAULT_KEY = re.compile(r"fault\[([0-9]+)\]\.(.+)", re.DOTALL)
_SECTIONS = (
    *dict.fromkeys(key.rpartition(".")[0] for key in KEYS if "." in key),
    "server.env",
    "postgres",
    "thresholds",
)
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
_SHORTER_THAN = {
    "warm_up": "duration",
    "fleet.ramp": "duration",
    "fleet.interval": "duration",
    "storage.prune_interval": "storage.retention",
}


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
    token_lifetime_seconds: float = 3600.0
    """Whole ones, of the agents' tokens."""
    organisations: int = 1
    """To which agents and simulated users belong in turn."""

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


class Scenario(Struct, frozen=True, kw_only=True):
    """A scenario as it will be run: file, overrides and defaults put together, and checked."""

    name: str
    """The file's name without its suffix."""
    path: str
    question: str
    duration_seconds: float
    seed: int
    warm_up_seconds: float = 0.0
    """From the start of the load: no latency and no series counts what belongs there."""
    settle_seconds: float
    """How long after its end a fault still counts as going on."""
    fleet: Fleet
    ui: Ui
    actions: Actions
    server: Server
    storage: Storage
    postgres: dict[str, str] = field(default_factory=dict)
    """Settings of the run's own Postgres, as in postgresql.conf."""
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
            *([f"They belong to {fleet.organisations} organisations."] if fleet.organisations > 1 else []),
            f"That is {rows:,.0f} samples/s and {lines:,.0f} log lines/s for {seconds(self.duration_seconds)}.",
            *([f"Its first {seconds(self.warm_up_seconds)} warm up."] if self.warm_up_seconds else []),
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


def load(path: Path, overrides: Mapping[str, str] = {}) -> Scenario:
    """Read the scenario at `path`.

    Args:
        path: the TOML file, or the name of a scenario that is shipped.
        overrides: values as text by key path (`{"fleet.agents": "500"}`); they beat the file, which beats the defaults.

    Raises:
        ScenarioError: the file cannot be read, or holds mistakes; it names all of them.
    """
    path = locate(path)
    return _Reader(path, read_layers(path), overrides).scenario()


class _Reader:
    """Reads one document and gathers its mistakes."""

    def __init__(self, path: Path, layers: Sequence[Layer], overrides: Mapping[str, str]) -> None:
        self._path = path
        self._overrides = overrides
        self._problems: list[Problem] = []
        self._given: dict[str, Any] = {}
        self._from: dict[str, int] = {}
        """Of each key that is given the layer that does, from the outermost parent on; overrides come after all of them."""
        self._sources = [str(layer.path) for layer in layers]
        self._values: dict[str, Any] = {}
        self._env: dict[str, str] = {}
        self._postgres: dict[str, str] = {}
        self._bounds: dict[str, dict[str, Any]] = {}
        """The keys of each threshold, by its name."""
        self._faults: list[dict[str, Any]] = []
        for number, layer in enumerate(layers):
            self._add(number, layer.document)
        for key, text in overrides.items():
            self._override(key, text)

    def _add(self, number: int, document: Mapping[str, Any]) -> None:
        """Put a file over those that it extends."""
        if "fault" in document:
            faults = document["fault"]
            self._faults = [{} for _ in faults] if isinstance(faults, list) else []
            self._drop([key for key in self._given if key == "fault" or key.startswith(("fault.", "fault["))])
        inherited = tuple(self._given)
        for key, value in leaves(document, _WHOLE):
            if self._from.get(key) == number:
                self._wrong(key, value, "given twice")
            elif threshold := threshold_name(key):
                # A text is its bound, so it takes the place of a bound; `none` takes the place of everything.
                same = [old for old in inherited if threshold_name(old) == threshold]
                gone = value == NO_THRESHOLD and bool(same)
                self._drop([old for old in same if gone or threshold_part(old) == threshold_part(key)])
                if gone:
                    continue
            self._given[key] = value
            self._from[key] = number

    def _override(self, key: str, text: str) -> None:
        parts = [given for given in self._given if given == key or given.startswith(f"{key}.")]
        if text == NO_THRESHOLD and parts and key.startswith("thresholds."):
            self._drop(parts)
        else:
            known = KEYS.get(key) or (_threshold_key(key) if key.startswith("thresholds.") else None)
            self._given[key] = _from_text(known, text) if known else text
            self._from[key] = len(self._sources)

    def _drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._given.pop(key, None)
            self._from.pop(key, None)

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
            warm_up_seconds=self._values["warm_up"],
            settle_seconds=self._values["settle"],
            fleet=Fleet(**self._section("fleet", "interval", "ramp", "token_lifetime")),
            ui=Ui(**self._section("ui", "visit"), shape=make_shape(self._values)),
            actions=Actions(**self._section("actions")),
            server=Server(**self._section("server"), env=self._env),
            storage=Storage(**self._section("storage", "retention", "prune_interval", "backfill")),
            postgres={name: value for name, value in self._postgres.items() if value != NO_SETTING},
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
        if key == EXTENDS and key in self._overrides:
            raise ValueError("stands in the file only")
        if key in KEYS:
            self._values[key] = KEYS[key].read(value)
        elif key.startswith("thresholds."):
            name, part = threshold_parts(key.removeprefix("thresholds."))
            read = THRESHOLD_KEYS[part].read(value)
            parts = self._bounds.setdefault(name, {})
            if part in parts and key not in self._overrides:
                raise ValueError("given twice")
            parts[part] = read
        elif key.startswith("server.env."):
            name = key.removeprefix("server.env.")
            self._env[name] = environment(name, value)
        elif key.startswith("postgres."):
            name = key.removeprefix("postgres.")
            self._postgres[name] = postgres_setting(name, value)
        elif fault and key not in self._overrides and int(fault[1]) < len(self._faults):
            if fault[2] not in FAULT_KEYS:
                raise ValueError(unknown(fault[2], FAULT_KEYS, "key"))
            self._faults[int(fault[1])][fault[2]] = FAULT_KEYS[fault[2]].read(value)
        else:
            raise ValueError(_unknown_key(key))

    def _default(self, key: str, known: Key, into: dict[str, Any], name: str) -> None:
        if known.default is ...:
            self._wrong(key, ..., f"missing; {known.meaning[0].lower()}{known.meaning[1:]}")
        elif known.default is not None:
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
        for i, fault in enumerate(self._faults):
            if "at" in fault and fault["at"] < values.get("warm_up", 0):
                self._conflict(f"fault[{i}].at", f"must lie after the warm_up of {seconds(values['warm_up'])}")
        if {"fleet.containers", "fleet.interval", "fleet.churn_per_hour"} <= values.keys():
            most = most_churn_per_hour(values["fleet.containers"], round(values["fleet.interval"] * 1e6))
            if values["fleet.churn_per_hour"] > most:
                expected = f"at most {most:g}, so that a container lives for some intervals"
                self._conflict("fleet.churn_per_hour", f"expected {expected}")
        agents = values.get("fleet.agents")
        for key in ("fleet.processes", "fleet.organisations"):
            if agents is not None and values.get(key, 1) > agents:
                self._conflict(key, f"must not exceed fleet.agents ({agents}): an agent for each")
        if values.get("fleet.organisations", 1) > 1 and values.get("storage.backfill", 0):
            self._conflict("fleet.organisations", "has no history: expected 1 with storage.backfill")
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
        # Another kind of shape than that of the file which is extended makes nothing of what stands there.
        of_shape = {key for key in self._given if not self._is_later("ui.shape.kind", key)}
        for key, expected in shape_conflicts(values, of_shape):
            self._conflict(key, expected)
        users = sum(values.get(key, 0) for key in _USERS)
        if values.get("ui.processes", 1) > max(1, users):
            self._conflict("ui.processes", f"must not exceed the simulated users ({users}): a user for each")
        for key, kinds in _OF_USERS.items():
            # A flag, or a file that extends another, may switch off its users; a file that does so itself says two things.
            idle = all(values.get(kind) == 0 for kind in kinds)
            if idle and key in self._given and not any(self._is_later(kind, key) for kind in kinds):
                self._conflict(key, f"has no effect without {' or '.join(kinds)}")

    def _is_later(self, key: str, other: str) -> bool:
        """Whether a key is given by a flag, or by a file that extends the one which gives the other."""
        return key in self._overrides or self._from.get(key, -1) > self._from.get(other, -1)

    def _conflict(self, key: str, expected: str) -> None:
        default = KEYS[key].default if key in KEYS else FAULT_KEYS[key.rpartition(".")[2]].default
        self._wrong(key, self._given.get(key, default), expected)

    def _wrong(self, key: str, value: object, expected: str) -> None:
        number = self._from.get(key, len(self._sources) - 1)
        source = "override" if key in self._overrides else self._sources[number]
        self._problems.append(Problem(source, key, value, expected))


def _threshold_key(key: str) -> Key | None:
    try:
        return THRESHOLD_KEYS[threshold_parts(key.removeprefix("thresholds."))[1]]
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
