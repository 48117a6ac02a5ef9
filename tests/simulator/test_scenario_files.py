"""Where scenario files are found, and how one extends another."""

from pathlib import Path

import pytest

from simulator import scenario_files
from simulator.scenario import Fault, Scenario, ScenarioError, load
from simulator.scenario_files import MOST_LAYERS, SHIPPED, shipped


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, the current one, so that errors show short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(**texts: str) -> None:
    """Files by their names without suffix."""
    for name, text in texts.items():
        Path(f"{name}.toml").write_text(text)


def loaded(**texts: str) -> Scenario:
    """The scenario `child`."""
    write(**texts)
    return load(Path("child.toml"))


def refused(**texts: str) -> list[str]:
    """The sentences with which `child` is refused."""
    write(**texts)
    with pytest.raises(ScenarioError) as error:
        load(Path("child.toml"))
    return [str(problem) for problem in error.value.problems]


PARENT = """
question = "q"
duration = "1m"
[fleet]
agents = 300
containers = 7
profiles = { web = 1, idle = 1 }
[server]
restart = true
[server.env]
SEATRIAL_LANES = "3"
SEATRIAL_POOL_SIZE = "5"
[[fault]]
at = "20s"
kind = "server_kill"
[[fault]]
at = "40s"
kind = "server_term"
[thresholds]
a.p99 = { bound = "< 1", abort = true, grace = "3s" }
b.p99 = "< 2"
c.p99 = "< 3"
after.d.p99 = "< 4"
"""


def test_tables_are_merged_key_by_key() -> None:
    """What the child says wins, whatever it leaves out is the parent's; a table of weights is one value."""
    child = loaded(
        parent=PARENT,
        child='extends = "parent.toml"\nseed = 9\n[fleet]\nagents = 5\nprofiles = { cron = 2 }\n'
        '[server.env]\nSEATRIAL_LANES = "4"\n',
    )

    assert (child.name, child.path, child.question, child.seed) == ("child", "child.toml", "q", 9)
    assert (child.duration_seconds, child.fleet.agents, child.fleet.containers) == (60, 5, 7)
    assert child.fleet.profiles == {"cron": 2}
    assert child.server.env == {"SEATRIAL_LANES": "4", "SEATRIAL_POOL_SIZE": "5"}
    assert [fault.at_seconds for fault in child.faults] == [20, 40]


def test_a_setting_of_postgres_can_be_taken_out() -> None:
    """For a run on a Postgres that has its own."""
    child = loaded(
        parent='question = "q"\n[postgres]\nshared_buffers = "4GB"\nwork_mem = "9MB"\n',
        child='extends = "parent.toml"\n[postgres]\nshared_buffers = "none"\n',
    )

    assert child.postgres == {"work_mem": "9MB"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[fault]]\nat = "5s"\nkind = "resets"', (Fault(at_seconds=5, kind="resets", fraction=0.5),)),
        ('fault = []\n[thresholds]\nafter.d.p99 = "none"', ()),
    ],
)
def test_faults_are_replaced_as_a_whole(text: str, expected: tuple[Fault, ...]) -> None:
    """Their times belong together: a child has all of its own, or those of its parent."""
    assert loaded(parent=PARENT, child=f'extends = "parent.toml"\n{text}').faults == expected


def test_thresholds_are_tightened_added_and_taken_out() -> None:
    """A text changes the bound and leaves the rest; `none` takes a threshold out; a flag beats them all."""
    write(
        parent=PARENT,
        child='extends = "parent.toml"\n[thresholds]\na.p99 = "< 9"\n"b.p99" = {bound = "< 8", abort = true}\n'
        'c.p99 = "none"\ne.p99 = "< 5"\n',
    )
    found = load(Path("child.toml"), {"thresholds.e.p99": "< 6", "thresholds.d.p50": "< 7"}).thresholds

    assert {(t.key, t.bound, t.abort, t.grace_seconds) for t in found} == {
        ("a.p99", "< 9", True, 3), ("b.p99", "< 8", True, 10), ("after.d.p99", "< 4", False, 0),
        ("e.p99", "< 6", False, 0), ("d.p50", "< 7", False, 0),
    }  # fmt: skip


def test_a_child_may_switch_off_what_its_parent_describes() -> None:
    """How users behave, and what shape they have, is no contradiction when it is the parent that says so."""
    parent = 'question = "q"\n[ui]\nsubscribers = 40\nspawn_rate = 5\n[ui.shape]\nkind = "stairs"\nsteps = 4\n'

    assert loaded(parent=parent, child='extends = "parent.toml"\n[ui]\nsubscribers = 0\n').users == 0
    shape = loaded(parent=parent, child='extends = "parent.toml"\n[ui.shape]\nkind = "steady"\n').ui.shape
    assert (shape.kind, shape.steps) == ("steady", 0)


def test_a_shipped_scenario_is_found_by_its_name() -> None:
    """To run it and to extend it, from any directory; a file of that name that is there is meant first."""
    assert load(Path("smoke")) == load(SHIPPED / "smoke.toml")
    child = loaded(child='extends = "smoke"\n[fleet]\nagents = 3\n')
    assert (child.fleet.agents, child.fleet.log_lines) == (3, load(Path("smoke")).fleet.log_lines)
    Path("smoke").write_text('question = "mine"')
    assert load(Path("smoke")).question == "mine"


def test_paths_count_from_the_file_that_names_them() -> None:
    """Not from the current directory; several files may extend one another, up to a bound."""
    Path("base").mkdir()
    Path("base/far.toml").write_text('question = "far"\n[fleet]\nagents = 2\ncontainers = 2\n')
    Path("base/near.toml").write_text('extends = "far.toml"\n[fleet]\nagents = 3\n')

    child = loaded(child='extends = "base/near.toml"\nquestion = "near"\n')
    assert (child.question, child.fleet.agents, child.fleet.containers) == ("near", 3, 2)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ({"child": 'extends = "smkoe"'}, 'child.toml: extends = "smkoe": unknown scenario; did you mean smoke?'),
        ({"child": 'extends = "no.toml"'}, 'child.toml: extends = "no.toml": there is no file no.toml'),
        ({"child": "extends = 3"}, "child.toml: extends = 3: expected a text that is not empty"),
        ({"child": 'extends = "p.toml"', "p": "a = ="}, "p.toml: expected TOML: "),
        (
            {"child": 'extends = "p.toml"', "p": 'question = "q"\n[fleet]\nagnets = 3'},
            "p.toml: fleet.agnets = 3: unknown key; did you mean agents?",
        ),
        (
            {"child": 'extends = "p.toml"\n[fleet]\nramp = "20s"', "p": 'question = "q"\nduration = "10s"'},
            'child.toml: fleet.ramp = "20s": must be shorter than duration (10s)',
        ),
        ({"child": 'extends = "p.toml"', "p": "seed = 3"}, "child.toml: question: missing; what the scenario answers."),
        (
            {"child": 'extends = "child.toml"'},
            'child.toml: extends = "child.toml": goes round in a circle: child.toml extends child.toml',
        ),
        (
            {"child": 'extends = "p.toml"', "p": 'extends = "./child.toml"'},
            'p.toml: extends = "./child.toml": goes round in a circle: child.toml extends p.toml extends child.toml',
        ),
    ],
)
def test_a_parent_that_cannot_be_is_told_with_its_file(texts: dict[str, str], sentence: str) -> None:
    """The sentence names the file that says it, and what was expected."""
    found = refused(**texts)

    assert len(found) == 1
    assert found[0].startswith(sentence)


def test_a_chain_is_bounded() -> None:
    """The last one that still may extend another does; one more is a mistake."""
    write(**{f"s{i}": f'extends = "s{i + 1}.toml"' for i in range(MOST_LAYERS)})
    write(**{f"s{MOST_LAYERS}": 'question = "q"'})

    assert load(Path("s1.toml")).question == "q"
    with pytest.raises(ScenarioError, match=f"s{MOST_LAYERS - 1}.toml: extends = .*at most {MOST_LAYERS} scenarios"):
        load(Path("s0.toml"))


def test_a_name_that_is_none_is_told_with_the_nearest() -> None:
    """The name of no file and of no scenario; `extends` is no flag."""
    with pytest.raises(ScenarioError, match=r"smok: unknown scenario; did you mean smoke\?"):
        load(Path("smok"))
    with pytest.raises(ScenarioError, match='override: extends = "smoke": stands in the file only'):
        load(Path("smoke"), {"extends": "smoke"})


def test_shipped_scenarios_lie_where_an_installed_package_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the packages: the wheel takes them from the repository's root, as pyproject.toml says."""
    assert shipped() == sorted((Path(scenario_files.__file__).parents[1] / "scenarios").glob("*.toml"))
    assert {"smoke", "product"} <= {path.stem for path in shipped()}
