"""Scenario files: what they become, and how their mistakes are told."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from simulator.fault_kinds import FAULTS
from simulator.scenario import Fault, Scenario, ScenarioError, Shape, Threshold, load
from simulator.scenario_format import FAULT_KEYS, KEYS, SHAPES, STRATEGIES, parse_duration, seconds

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "scenarios.md"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, the current one, so that errors show short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str, overrides: Mapping[str, str] = {}) -> Scenario:
    """The scenario of `text`, as `x.toml`."""
    Path("x.toml").write_text(text)
    return load(Path("x.toml"), overrides)


def mistakes(text: str, overrides: Mapping[str, str] = {}) -> list[str]:
    """The sentences with which `text` is refused."""
    with pytest.raises(ScenarioError) as error:
        read(text, overrides)
    assert str(error.value) == "\n".join(map(str, error.value.problems))
    return [str(problem) for problem in error.value.problems]


pytestmark = pytest.mark.usefixtures("directory")

QUESTION = 'question = "q"\n'


def test_a_file_with_a_question_only_takes_every_default() -> None:
    """Each default of the format is there, in the unit that its name says."""
    scenario = read(QUESTION)

    assert (scenario.name, scenario.path, scenario.question) == ("x", "x.toml", "q")
    assert (scenario.duration_seconds, scenario.seed) == (40.0, 1)
    assert (scenario.fleet.agents, scenario.fleet.containers, scenario.fleet.log_lines) == (100, 5, 1)
    assert (scenario.fleet.interval_seconds, scenario.fleet.interval_us, scenario.fleet.ramp_seconds) == (1, 10**6, 5)
    assert (scenario.fleet.transport, scenario.ui.subscribers, scenario.ui.spawn_rate) == ("picows", 0, 10)
    assert (scenario.server.restart, scenario.server.log_level, scenario.server.env) == (False, "info", {})
    assert (scenario.storage.strategy, scenario.storage.retention_seconds) == ("plain", 86_400)
    assert scenario.storage.prune_interval_seconds == 60
    assert (scenario.faults, scenario.thresholds) == ((), ())


def test_every_key_can_be_given() -> None:
    """A full file becomes a scenario: faults in the order of time, thresholds with or without quotes."""
    scenario = read(
        """
        question = "does it?"
        duration = "2m"
        seed = 7
        [fleet]
        agents = 3
        containers = 2
        interval = "250ms"
        log_lines = 0
        ramp = "1.5s"
        transport = "websockets"
        [ui]
        subscribers = 4
        chart_readers = 3
        log_downloaders = 2
        auditors = 1
        spawn_rate = 0.5
        [actions]
        operators = 5
        per_second = 2.5
        [server]
        restart = true
        log_level = "debug"
        [server.env]
        SEATRIAL_LANES = "3"
        [storage]
        strategy = "plain"
        retention = "10s"
        prune_interval = "1s"
        [postgres]
        shared_buffers = "4GB"
        pg_stat_statements.max = "500"
        [[fault]]
        at = "30s"
        kind = "server_kill"
        [[fault]]
        at = "15s"
        kind = "server_kill"
        [thresholds]
        ack_latency_ms.p99 = "<1e3"
        "ack_latency_ms.max" = "<= 5_000"
        ack_latency_ms.p50 = "> -1.5"
        """
    )

    assert (scenario.duration_seconds, scenario.fleet.interval_us, scenario.fleet.ramp_seconds) == (120, 250_000, 1.5)
    assert (scenario.users, scenario.actions.per_second) == (15, 2.5)
    assert scenario.server.env == {"SEATRIAL_LANES": "3"}
    assert scenario.postgres == {"shared_buffers": "4GB", "pg_stat_statements.max": "500"}
    assert [fault.at_seconds for fault in scenario.faults] == [15, 30]
    assert scenario.faults[0] == Fault(at_seconds=15, kind="server_kill")
    assert [(t.key, t.bound) for t in scenario.thresholds] == [
        ("ack_latency_ms.p99", "< 1000"), ("ack_latency_ms.p50", "> -1.5"), ("ack_latency_ms.max", "<= 5000"),
    ]  # fmt: skip


def test_profiles_are_a_table_or_an_override(tmp_path: Path) -> None:
    """Weights stand in a table of the file; as a flag they are the text that `simulate` takes, and replace them all."""
    path = tmp_path / "x.toml"
    path.write_text('question = "Q?"\n[fleet]\nprofiles = { idle = 2, web = 4 }\nchurn_per_hour = 6\n')

    assert load(path).fleet.profiles == {"web": 4, "idle": 2}
    assert load(path).fleet.churn_per_hour == 6
    assert load(path, {"fleet.profiles": "cron=1"}).fleet.profiles == {"cron": 1}


@pytest.mark.parametrize(
    ("op", "below", "equal", "above"),
    [("<", 1, 0, 0), ("<=", 1, 1, 0), (">", 0, 0, 1), (">=", 0, 1, 1), ("==", 0, 1, 0)],
)
def test_a_threshold_compares(op: str, below: int, equal: int, above: int) -> None:
    """Each comparison holds where it should, and NaN holds nowhere."""
    threshold = Threshold(metric="m", stat="p50", op=op, limit=5)

    assert [threshold.holds(value) for value in (4.9, 5, 5.1)] == [bool(below), bool(equal), bool(above)]
    assert not threshold.holds(float("nan"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "x.toml: question: missing; what the scenario answers."),
        ('question = " "', 'x.toml: question = " ": expected a text that is not empty'),
        ("[fleet]\nagnets = 200", "x.toml: fleet.agnets = 200: unknown key; did you mean agents?"),
        ("agents = 3", "x.toml: agents = 3: unknown key; did you mean fleet.agents?"),
        ('[fleets]\ncolour = "red"', 'x.toml: fleets.colour = "red": unknown key; expected one of '),
        ("fleet = 3", "x.toml: fleet = 3: expected a table, [fleet]"),
        ("thresholds = []", "x.toml: thresholds = []: expected a table, [thresholds]"),
        ('[fleet]\nagents = "200"', 'x.toml: fleet.agents = "200": expected an integer from 1 to 100000'),
        ("[fleet]\nagents = 0", "x.toml: fleet.agents = 0: expected an integer from 1 to 100000"),
        ("[fleet]\nagents = true", "x.toml: fleet.agents = true: expected an integer from 1 to 100000"),
        ("[fleet]\nagents = 1.5", "x.toml: fleet.agents = 1.5: expected an integer from 1 to 100000"),
        ("[fleet]\nagents.many = 1", "x.toml: fleet.agents.many = 1: unknown key; "),
        ('duration = "40"', 'x.toml: duration = "40": expected a number with a unit (ms, s, m or h), such as "40s"'),
        ('duration = "40 parsecs"', 'x.toml: duration = "40 parsecs": expected a number with a unit'),
        ("duration = 40", "x.toml: duration = 40: expected a number with a unit"),
        ('duration = "-4s"', 'x.toml: duration = "-4s": expected a number with a unit'),
        ('duration = "٤s"', 'x.toml: duration = "٤s": expected a number with a unit'),
        ('[fleet]\ninterval = "50ms"', 'x.toml: fleet.interval = "50ms": expected a duration from 100ms to 1h'),
        ("[fleet]\nprocesses = 0", "x.toml: fleet.processes = 0: expected an integer from 1 to 64"),
        ('[fleet]\ntransport = "udp"', 'x.toml: fleet.transport = "udp": expected a transport: picows, websockets'),
        (
            "[fleet.profiles]\nwebb = 1",
            'x.toml: fleet.profiles = {"webb": 1}: expected one of web, ',
        ),
        (
            "[fleet]\nprofiles = {web = 0}",
            'x.toml: fleet.profiles = {"web": 0}: expected a weight from 1 to 1000000 for web, not 0',
        ),
        ("[fleet]\nprofiles = {}", "x.toml: fleet.profiles = {}: expected at least one profile with its weight"),
        ("[fleet]\nprofiles = 3", "x.toml: fleet.profiles = 3: expected profile=weight, such as web=4,idle=2"),
        (
            "[fleet]\nchurn_per_hour = 2000",
            "x.toml: fleet.churn_per_hour = 2000: expected at most 1800, so that a container lives for some intervals",
        ),
        ("[fleet]\nchurn_per_hour = -1", "x.toml: fleet.churn_per_hour = -1: expected a number from 0 to 1e+06"),
        ("[fleet]\ntroubled_commands = 2", "x.toml: fleet.troubled_commands = 2: expected a number from 0 to 1"),
        ("[server]\nrestart = 1", "x.toml: server.restart = 1: expected true or false"),
        ("[ui]\nsubscribers = 1\nspawn_rate = nan", "x.toml: ui.spawn_rate = NaN: expected a number from 0.1 to 1000"),
        ("[actions]\noperators = -1", "x.toml: actions.operators = -1: expected an integer from 0 to 1000"),
        (
            "[actions]\noperators = 1\nper_second = 0",
            "x.toml: actions.per_second = 0: expected a number from 0.01 to 1000",
        ),
        ("[ui]\nchart_reader = 1", "x.toml: ui.chart_reader = 1: unknown key; did you mean chart_readers?"),
        ("[ui]\noperators = 1", "x.toml: ui.operators = 1: unknown key; "),
        ('[storage]\nstrategy = "tape"', 'x.toml: storage.strategy = "tape": expected a strategy: plain'),
        ('[server.env]\nPATH = "x"', 'x.toml: server.env.PATH = "x": expected a name that begins with SEATRIAL_'),
        ("[server.env]\nSEATRIAL_X = 1", "x.toml: server.env.SEATRIAL_X = 1: expected a text"),
        (
            '[server.env]\nSEATRIAL_JWT_SECRET = "x"',
            'x.toml: server.env.SEATRIAL_JWT_SECRET = "x": the runner sets this',
        ),
        ('[server.env]\nSEATRIAL_RETENTION_SECONDS = "9"', "SEATRIAL_RETENTION_SECONDS = "),
        ("[postgres]\nwork_mem = 4", 'x.toml: postgres.work_mem = 4: expected a text, such as "4GB"'),
        ('[postgres]\n"Work Mem" = "1"', "expected a name as in postgresql.conf, such as shared_buffers"),
        ('[fault]\nat = "1s"', 'x.toml: fault.at = "1s": expected [[fault]] tables, in the file'),
        ("fault = [1]", "x.toml: fault[0] = 1: expected [[fault]] tables, in the file"),
        ('"fault[0].at" = "1s"', 'x.toml: fault[0].at = "1s": expected [[fault]] tables, in the file'),
        ('[thresholds]\nack = "< 1"', 'x.toml: thresholds.ack = "< 1": expected a metric and a statistic'),
        ("[thresholds]\na.p99 = 5", "x.toml: thresholds.a.p99 = 5: expected a comparison (< <= > >= ==) and a number"),
        ('[thresholds]\na.p99 = "5"', 'x.toml: thresholds.a.p99 = "5": expected a comparison'),
        ('[thresholds]\na.p99 = "!= 5"', 'x.toml: thresholds.a.p99 = "!= 5": expected a comparison'),
        ('[thresholds]\na.p99 = "< inf"', 'x.toml: thresholds.a.p99 = "< inf": expected a comparison'),
        ('[thresholds]\na.p99 = "< 5ms"', 'x.toml: thresholds.a.p99 = "< 5ms": expected a comparison'),
        ('[thresholds]\n"a.p9" = "< 1"\na.p9 = "< 2"', 'x.toml: thresholds.a.p9 = "< 2": given twice'),
        ("[thresholds]\na.p9 = {abort = true}", "x.toml: thresholds.a.p9: missing; expected a bound, such as bound ="),
        ('[thresholds]\na.p9 = {bound = "5"}', 'x.toml: thresholds.a.p9.bound = "5": expected a comparison'),
        ('[thresholds]\na.p9 = {bound = "< 5", abrot = true}', "a.p9.abrot = true: unknown key; did you mean abort?"),
        ('[thresholds]\na.p9 = {bound = "< 5", abort = 1}', "thresholds.a.p9.abort = 1: expected true or false"),
        (
            '[thresholds]\na.p9 = {bound = "< 5", abort = true, grace = "3"}',
            'thresholds.a.p9.grace = "3": expected a number with a unit (ms, s, m or h)',
        ),
        (
            '[thresholds]\na.p9 = {bound = "< 5", grace = "3s"}',
            'thresholds.a.p9.grace = "3s": has no effect without abort = true',
        ),
        ('[thresholds.after]\na.p9 = "< 5"', 'after.a.p9 = "< 5": there is no after: the scenario has no fault'),
        ('[thresholds.afetr]\na.p9 = "< 5"', 'thresholds.afetr.a.p9 = "< 5": unknown phase; did you mean after?'),
        ('settle = "3"', 'x.toml: settle = "3": expected a number with a unit'),
        ('"\\u001b[31m" = 1', 'x.toml: "\\u001b[31m" = 1: unknown key; '),
    ],
)
def test_a_mistake_is_told_by_key_value_and_expectation(text: str, sentence: str) -> None:
    """Each sentence names file and key, shows what was found, and says what was expected."""
    found = mistakes(text if not text or text.startswith("question") else f"{QUESTION}{text}")

    assert len(found) == 1
    assert sentence in found[0]


BROWSERS = "ui.subscribers or ui.slow or ui.reconnecting"
USERS = f"{BROWSERS} or ui.chart_readers or ui.log_downloaders or ui.auditors or actions.operators"
FAULT = '[[fault]]\nat = "15s"\nkind = "server_kill"\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (FAULT, 'x.toml: fault[0].kind = "server_kill": needs server.restart = true, or the run ends there'),
        (
            '[server]\nrestart = true\n[[fault]]\nat = "40s"\nkind = "server_kill"',
            'x.toml: fault[0].at = "40s": must lie inside the duration of 40s',
        ),
        (
            '[[fault]]\nat = "1s"\nkind = "quake"',
            f'x.toml: fault[0].kind = "quake": unknown fault; expected one of {", ".join(FAULTS)}',
        ),
        (
            '[[fault]]\nat = "1s"\nkind = "half_opn"',
            'x.toml: fault[0].kind = "half_opn": unknown fault; did you mean half_open?',
        ),
        (
            '[[fault]]\nat = "1s"\nkind = "disconnect"\nfraction = 0',
            "x.toml: fault[0].fraction = 0: expected a number from 0.001 to 1",
        ),
        (
            '[[fault]]\nat = "1s"\nkind = "disconnect"\nagents = 101',
            "x.toml: fault[0].agents = 101: expected at most the fleet's 100",
        ),
        (
            '[[fault]]\nat = "1s"\nkind = "disconnect"\nagents = 1\nfraction = 1',
            "x.toml: fault[0].agents = 1: expected either agents or fraction",
        ),
        (
            '[[fault]]\nat = "1s"\nkind = "half_open"\n[[fault]]\nat = "3s"\nkind = "unread_acks"',
            'x.toml: fault[1].at = "3s": must lie after the end of half_open at 6s',
        ),
        (
            '[storage]\nretention = "20s"\nprune_interval = "1s"\n[[fault]]\nat = "1s"\nkind = "clock_skew"\nskew = "-10s"',
            'x.toml: fault[0].skew = "-10s": expected at most a quarter of storage.retention (20s) behind, or all of it',
        ),
        (
            '[server]\nrestart = true\n[[fault]]\nat = "1s"\nkind = "server_kill"\nhow = 1',
            f"x.toml: fault[0].how = 1: unknown key; expected one of {', '.join(FAULT_KEYS)}",
        ),
        (
            '[server]\nrestart = true\n[[fault]]\nkind = "server_kill"',
            "x.toml: fault[0].at: missing; when it happens, after the start of the load.",
        ),
        (
            '[[fault]]\nat = "1s"\nkind = "resets"\nfor = "1s"',
            'x.toml: fault[0].for = "1s": has no effect with resets',
        ),
        (
            '[[fault]]\nat = "1s"\nkind = "postgres_stop"\nfraction = 0.5',
            "x.toml: fault[0].fraction = 0.5: has no effect with postgres_stop",
        ),
        (
            '[[fault]]\nat = "1s"\nkind = "resets"\nfraction = 2',
            "x.toml: fault[0].fraction = 2: expected a number from 0.001 to 1",
        ),
        (
            '[[fault]]\nat = "1s"\nkind = "postgres_stop"\nfor = "forever"',
            'x.toml: fault[0].for = "forever": expected a number with a unit (ms, s, m or h), such as "40s"',
        ),
        (
            '[[fault]]\nat = "36s"\nkind = "postgres_kill"',
            'x.toml: fault[0].for = "5s": must end inside the duration of 40s',
        ),
        (
            '[[fault]]\nat = "20s"\nkind = "postgres_kill"\n[[fault]]\nat = "1s"\nkind = "postgres_stop"\nfor = "20s"',
            'x.toml: fault[0].at = "20s": must lie after the end of postgres_stop at 21s',
        ),
        (
            '[[fault]]\nat = "1s"\nkind = "server_term"',
            'x.toml: fault[0].kind = "server_term": needs server.restart = true, or the run ends there',
        ),
        (
            '[storage]\nretention = "10s"\nprune_interval = "10s"',
            'x.toml: storage.prune_interval = "10s": must be shorter than storage.retention (10s)',
        ),
        (
            '[storage]\nretention = "30s"',
            'x.toml: storage.prune_interval = "1m": must be shorter than storage.retention (30s)',
        ),
        (
            "[fleet]\nagents = 3\nprocesses = 4",
            "x.toml: fleet.processes = 4: must not exceed fleet.agents (3): an agent for each",
        ),
        ('duration = "5s"', 'x.toml: fleet.ramp = "5s": must be shorter than duration (5s)'),
        ('[fleet]\ninterval = "41s"', 'x.toml: fleet.interval = "41s": must be shorter than duration (40s)'),
        (
            "[ui]\nspawn_rate = 5",
            f"x.toml: ui.spawn_rate = 5: has no effect without {USERS}",
        ),
        ("[actions]\nper_second = 5", "x.toml: actions.per_second = 5: has no effect without actions.operators"),
    ],
)
def test_what_cannot_go_together_is_refused(text: str, sentence: str) -> None:
    """Combinations that no single key shows are mistakes too."""
    assert mistakes(QUESTION + text) == [sentence]


def test_all_mistakes_are_told_together() -> None:
    """One reading names every mistake, in the order of the file; a wrong value makes no second one."""
    found = mistakes('duration = "40"\n[fleet]\nagnets = 1\n' + FAULT + '[thresholds]\nx = "< 1"', {"seed": "one"})

    assert [sentence.split(" = ", 1)[0].removesuffix(": missing; what the scenario answers.") for sentence in found] == [
        "x.toml: question", "x.toml: duration", "x.toml: fleet.agnets", "x.toml: thresholds.x", "override: seed",
        "x.toml: fault[0].kind",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"a = 1\nb = = 2\n", r"x\.toml: expected TOML: .*line 2"),
        (b"a = 1\na = 2\n", r"x\.toml: expected TOML: .*line 2"),
        (b"a = '\xff'\n", r"x\.toml: expected UTF-8; byte 5 is not"),
        (b"a = " + b"9" * 5000, r"x\.toml: expected TOML"),
        (b"a = " + b"[" * 100_000, r"x\.toml: expected TOML"),
    ],
)
def test_what_is_no_toml_is_told_with_its_place(data: bytes, sentence: str) -> None:
    """A file that cannot be parsed is a scenario error like any other."""
    Path("x.toml").write_bytes(data)
    with pytest.raises(ScenarioError, match=sentence):
        load(Path("x.toml"))


def test_a_file_that_is_not_there() -> None:
    """The sentence names the file and the cause."""
    with pytest.raises(ScenarioError, match=re.escape("nowhere.toml: cannot be read: No such file or directory")):
        load(Path("nowhere.toml"))


def test_an_override_beats_the_file_which_beats_the_default() -> None:
    """Overrides are texts, read as the key's type."""
    text = QUESTION + '[fleet]\nagents = 3\ncontainers = 4\n[thresholds]\na.p99 = "< 1"\nb.p50 = "< 2"\n'
    scenario = read(
        text,
        {
            "fleet.agents": "500", "fleet.interval": "2s", "server.restart": "true", "ui.subscribers": "3",
            "ui.spawn_rate": "2.5", "question": "12", "server.env.SEATRIAL_LANES": "4", "thresholds.a.p99": "< 9",
            "thresholds.b.p50": "none", "thresholds.c.p50": "> 3",
        },
    )  # fmt: skip

    assert (scenario.fleet.agents, scenario.fleet.containers, scenario.fleet.log_lines) == (500, 4, 1)
    assert (scenario.fleet.interval_seconds, scenario.server.restart, scenario.ui.spawn_rate) == (2, True, 2.5)
    assert scenario.server.env == {"SEATRIAL_LANES": "4"}
    assert [(t.key, t.bound) for t in scenario.thresholds] == [("a.p99", "< 9"), ("c.p50", "> 3")]


@pytest.mark.parametrize(
    ("key", "text", "sentence"),
    [
        ("fleet.agents", "many", 'override: fleet.agents = "many": expected an integer from 1 to 100000'),
        ("fleet.agnets", "5", 'override: fleet.agnets = "5": unknown key; did you mean agents?'),
        ("fault[0].at", "5s", 'override: fault[0].at = "5s": expected [[fault]] tables, in the file'),
        ("thresholds.a.p99", "none", 'override: thresholds.a.p99 = "none": expected a comparison'),
        ("duration", "4s", 'x.toml: fleet.ramp = "5s": must be shorter than duration (4s)'),
    ],
)
def test_a_wrong_override_is_told_as_such(key: str, text: str, sentence: str) -> None:
    """The sentence says `override` where the file is not to blame."""
    file = QUESTION + "[server]\nrestart = true\n" + '[[fault]]\nat = "1s"\nkind = "server_kill"\n'
    found = mistakes(file, {key: text})

    assert len(found) == 1
    assert found[0].startswith(sentence)


def test_a_flag_may_switch_the_browsers_of_a_file_off() -> None:
    """The file's spawn rate is no contradiction then."""
    scenario = read(QUESTION + "[ui]\nsubscribers = 5\nspawn_rate = 5\n", {"ui.subscribers": "0"})

    assert scenario.ui.subscribers == 0


UI = QUESTION + "[ui]\nsubscribers = 20\n"


def test_a_shape_has_what_its_kind_knows() -> None:
    """Each key has its default, and no other kind has it; the description tells it."""
    scenario = read(
        UI + 'slow = 2\nreconnecting = 3\nvisit = "5s"\nprocesses = 4\n[ui.shape]\nkind = "spike"\nat = "20s"\n'
    )
    ui = scenario.ui

    assert ui.shape == Shape(kind="spike", at_seconds=20, for_seconds=10, base=0.1)
    assert (ui.slow, ui.reconnecting, ui.visit_seconds, ui.processes, scenario.users) == (2, 3, 5, 4, 25)
    assert "20 browsers watch. Their shape is spike at 20s for 10s, else 0.1 of them." in scenario.describe()
    assert read(UI, {"ui.shape.kind": "stairs", "ui.shape.steps": "4"}).ui.shape.steps == 4


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (UI + '[ui.shape]\nkind = "stears"', 'ui.shape.kind = "stears": expected a shape: steady, ramp, spike, stairs'),
        (UI + '[ui.shape]\nknd = "ramp"', 'ui.shape.knd = "ramp": unknown key; did you mean kind?'),
        (UI + 'shape = "ramp"', 'ui.shape = "ramp": expected a table, [ui.shape]'),
        (UI + '[ui.shape]\nover = "9s"', 'ui.shape.over = "9s": has no effect with ui.shape.kind = "steady"'),
        (UI + '[ui.shape]\nkind = "ramp"\nbase = 1', 'ui.shape.base = 1: has no effect with ui.shape.kind = "ramp"'),
        (UI + '[ui.shape]\nkind = "ramp"\nover = "1m"', 'ui.shape.over = "1m": must end inside the duration of 40s'),
        (UI + '[ui.shape]\nkind = "ramp"\nover = "1s"', "ui.spawn_rate = 10: expected at least 20, or the ramp takes"),
        (UI + '[ui.shape]\nkind = "stairs"', 'ui.shape.step = "10s": 5 steps must end inside the duration of 40s'),
        (UI + '[ui.shape]\nkind = "spike"\nat = "35s"', 'ui.shape.at = "35s": the spike of 10s must end inside'),
        (QUESTION + '[ui]\nslow = 1\n[ui.shape]\nkind = "ramp"', 'ui.shape.kind = "ramp": has no effect without ui.sub'),
        (QUESTION + '[ui]\nvisit = "9s"', 'ui.visit = "9s": has no effect without ui.subscribers or ui.slow or ui.rec'),
        (QUESTION + "[ui]\nslow = 1\nprocesses = 2", "ui.processes = 2: must not exceed the simulated users (1): a user"),
        (UI + "slow = 1.5", "ui.slow = 1.5: expected an integer from 0 to 1000"),
        (UI + "reconnecting = -1", "ui.reconnecting = -1: expected an integer from 0 to 10000"),
    ],
)  # fmt: skip
def test_users_that_cannot_be_are_refused(text: str, sentence: str) -> None:
    """Key, value and what was expected."""
    found = mistakes(text)

    assert len(found) == 1
    assert found[0].startswith(f"x.toml: {sentence}")


@pytest.mark.parametrize(
    ("text", "expected"), [("250ms", 0.25), ("1s", 1), ("1.5m", 90), ("24h", 86_400), ("0.3ms", 0.0003), ("0s", 0)]
)
def test_durations_have_units(text: str, expected: float) -> None:
    """A duration is a number of seconds, exact to the microsecond, and can be told again."""
    assert parse_duration(text) == expected
    assert parse_duration(seconds(expected)) == expected


def test_faults_have_what_their_kind_knows() -> None:
    """What lasts has a duration, what chooses has a share; each has its default, and no other kind has it."""
    scenario = read(
        QUESTION
        + '[[fault]]\nat = "1s"\nkind = "postgres_kill"\n[[fault]]\nat = "10s"\nkind = "postgres_stop"\nfor = "20s"\n'
        + '[[fault]]\nat = "2s"\nkind = "resets"\n[[fault]]\nat = "3s"\nkind = "resets"\nfraction = 1\n'
        + '[[fault]]\nat = "4s"\nkind = "acks_withheld"\n'
    )

    assert scenario.faults == (
        Fault(at_seconds=1, kind="postgres_kill", for_seconds=5),
        Fault(at_seconds=2, kind="resets", fraction=0.5),
        Fault(at_seconds=3, kind="resets", fraction=1),
        Fault(at_seconds=4, kind="acks_withheld", for_seconds=5),
        Fault(at_seconds=10, kind="postgres_stop", for_seconds=20),
    )
    assert [fault.part for fault in scenario.faults] == ["postgres", "network", "network", "network", "postgres"]
    assert "postgres_kill at 1s for 5s, resets of 0.5 at 2s" in scenario.describe()


def test_faults_of_the_fleet_stand_beside_the_others() -> None:
    """Frames and impostors may come together, with whatever else is broken; each has the defaults of its kind."""
    scenario = read(
        QUESTION
        + '[[fault]]\nat = "1s"\nkind = "malformed_frames"\n[[fault]]\nat = "1s"\nkind = "duplicate_identity"\nagents = 3\n'
        + '[[fault]]\nat = "1s"\nkind = "slow_link"\n[[fault]]\nat = "2s"\nkind = "clock_skew"\nskew = "-30s"\n'
        + '[[fault]]\nat = "2s"\nkind = "acks_withheld"\n[[fault]]\nat = "9s"\nkind = "reconnect_storm"\n'
    )

    assert scenario.faults == (
        Fault(at_seconds=1, kind="malformed_frames", fraction=0.5, frames=2),
        Fault(at_seconds=1, kind="duplicate_identity", agents=3),
        Fault(
            at_seconds=1, kind="slow_link", for_seconds=5, fraction=0.5, bytes_per_second=10_000, latency_seconds=0.2
        ),
        Fault(at_seconds=2, kind="clock_skew", for_seconds=5, fraction=0.5, skew_seconds=-30),
        Fault(at_seconds=2, kind="acks_withheld", for_seconds=5),
        Fault(at_seconds=9, kind="reconnect_storm", for_seconds=5, fraction=1),
    )
    assert [fault.of_fleet for fault in scenario.faults] == [True, True, True, True, False, True]
    assert "slow_link of 0.5 at 1s for 5s latency 200ms bytes_per_second 10000" in scenario.describe()
    assert "clock_skew of 0.5 at 2s for 5s skew -30s" in scenario.describe()


def test_a_description_holds_what_matters() -> None:
    """One paragraph: the question, load, seed, storage, browsers and faults."""
    text = read(QUESTION + "[server]\nrestart = true\n" + FAULT, {"ui.subscribers": "3", "seed": "99"}).describe()

    assert "\n" not in text
    for part in ("q ", "100 agents of 5 containers", "500 samples/s", "100 log lines/s", "40s", "seed is 99", "3 browsers",
                 "plain", "24h", "server_kill at 15s"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("*.toml")), ids=lambda path: path.name)
def test_scenarios_that_we_ship_are_good(path: Path) -> None:
    """Each loads, and begins with a comment that asks what it answers."""
    first = path.read_text().splitlines()[0]

    assert load(path).question.endswith("?")
    assert first.startswith("# ")
    assert first.endswith("?")


def test_every_key_is_documented() -> None:
    """The format's table has a row per key, with its default; every fault and strategy is told."""
    text = DOCS.read_text()
    rows = {row.split("|")[1].strip().strip("`"): row for row in text.splitlines() if row.startswith("| `")}

    for key, known in {**KEYS, **{f"fault.{name}": known for name, known in FAULT_KEYS.items()}}.items():
        assert key in rows, f"{key} is missing in {DOCS.name}"
        default = "none" if known.default is None else known.default
        shown = "required" if default is ... else str(default).lower() if isinstance(default, bool) else str(default)
        assert shown in rows[key].split("|")[3], f"the default of {key} in {DOCS.name}"
    for name in (*FAULTS, *STRATEGIES, *SHAPES, "server.env", "postgres", "thresholds"):
        assert f"`{name}`" in text or f"`[{name}]`" in text, f"{name} is missing in {DOCS.name}"


def test_thresholds_can_end_a_run_and_hold_for_a_phase(tmp_path: Path) -> None:
    """A table says more than a text; a phase stands before the metric; a flag changes a bound and leaves the rest."""
    path = tmp_path / "x.toml"
    path.write_text(
        QUESTION
        + """
        [server]
        restart = true
        [[fault]]
        at = "5s"
        kind = "server_kill"
        [thresholds]
        a.p99 = {bound = "< 1", abort = true}
        b.p99 = {bound = "< 1", abort = true, grace = "3s"}
        [thresholds.after]
        a.p99 = "< 2"
        """
    )
    found = load(path, {"thresholds.b.p99": "< 9"}).thresholds

    assert [(t.key, t.phase, t.bound, t.abort, t.grace_seconds) for t in found] == [
        ("a.p99", "", "< 1", True, 10), ("b.p99", "", "< 9", True, 3), ("after.a.p99", "after", "< 2", False, 0),
    ]  # fmt: skip
    assert [t.key for t in load(path, {"thresholds.b.p99": "none"}).thresholds] == ["a.p99", "after.a.p99"]
