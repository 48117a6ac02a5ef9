"""When containers run: re-creations and crashes are the seed's, commands are inputs."""

from collections import Counter

import pytest

from simulator.lives import FOREVER, Input, Lives, Spell
from simulator.profiles import Loop

CRASHES = Loop(period_ticks=10, up_ticks=4, phase_ticks=3)


def states(lives: Lives, place: int, ticks: range) -> str:
    """One letter a tick: running, Restarting or Exited."""
    letters = {"running": "r", "restarting": "R", "exited": "E"}
    return "".join(letters[lives.spell(place, tick).state] for tick in ticks)


def test_without_churn_and_loops_nothing_happens() -> None:
    """Each place has one container that runs for ever."""
    lives = Lives(1, 3, 0, {})

    assert lives.spell(2, 10**9) == Spell(2, 0, "running", FOREVER)
    assert lives.running(5) == range(3)
    assert not lives.turned(0, 10**9)


def test_a_crash_loop_runs_and_waits_in_turn() -> None:
    """It begins somewhere in its period, and each run begins its counters anew."""
    lives = Lives(1, 2, 0, {1: CRASHES})

    assert states(lives, 1, range(20)) == "rRRRRRRrrrrRRRRRRrrr"
    assert [lives.spell(1, tick).since for tick in (0, 7, 10, 17)] == [-3, 7, 7, 17]
    assert [tick for tick in range(1, 20) if lives.turned(tick - 1, tick)] == [1, 7, 11, 17]
    assert lives.state(1, 3) == "restarting"
    assert list(lives.running(3)) == [0]
    assert list(lives.running(8)) == [0, 1]


def test_a_started_crash_loop_begins_its_run_then() -> None:
    """A stop ends the loop, a start begins it with a whole run."""
    lives = Lives(1, 2, 0, {1: CRASHES})
    assert lives.apply(Input(4, 1, "stop"))
    assert not lives.apply(Input(4, 1, "stop"))
    assert lives.apply(Input(9, 1, "start"))

    assert states(lives, 1, range(26)) == "rRRRREEEEErrrrRRRRRRrrrrRR"
    assert lives.spell(1, 12).since == 10


def test_recreated_containers_are_counted_among_what_turned() -> None:
    """Each place whose container became another counts once; one that only died or restarted does not."""
    lives = Lives(7, 4, 20, {1: CRASHES})
    turned = [lives.turned(tick - 1, tick) for tick in range(1, 400)]

    assert sum(map(lives.recreated, turned)) == 4 * 20
    assert sum(map(len, turned)) > 2 * 4 * 20
    assert lives.recreated(()) == 0


@pytest.mark.parametrize("churn_ticks", [10, 37, 400])
def test_every_place_is_recreated_once_in_its_period(churn_ticks: int) -> None:
    """Refs only rise, by the number of places, once in each period; spells tell when."""
    lives = Lives(7, 4, churn_ticks, {})
    for place in range(4):
        refs = [lives.spell(place, tick).ref for tick in range(20 * churn_ticks)]
        assert refs == sorted(refs)
        assert set(refs) == set(range(place, place + 4 * 21, 4))
        changes = [tick for tick in range(1, len(refs)) if refs[tick] != refs[tick - 1]]
        assert [tick // churn_ticks for tick in changes] == list(range(20))
        tick, ends = 0, []
        while (tick := lives.spell(place, tick).until) < len(refs):
            ends.append(tick)
        assert ends == changes
        assert [lives.spell(place, tick).since for tick in changes] == changes


def test_places_are_not_recreated_together() -> None:
    """Over many hosts the re-creations are spread over all of the period."""
    ticks = Counter(Lives(key, 1, 100, {}).spell(0, 0).until // 10 for key in range(500))

    assert set(ticks) == set(range(10))
    assert max(ticks.values()) < 100


def test_turns_are_told_with_both_refs() -> None:
    """The tick of a re-creation names the container that is gone and the one that came."""
    lives = Lives(7, 4, 50, {})
    told = {tick: lives.turned(max(0, tick - 1), tick) for tick in range(300)}

    for tick, refs in told.items():
        before = {lives.spell(place, max(0, tick - 1)).ref for place in range(4)}
        after = {lives.spell(place, tick).ref for place in range(4)}
        assert set(refs) == before ^ after
        assert all(lives.state(ref, tick) == "removed" for ref in before - after)
    assert sum(map(bool, told.values())) > 15


def test_what_held_batches_mention_is_listed_too() -> None:
    """`refs` begins with what there is, and goes on with what is gone since a tick."""
    lives = Lives(7, 4, 50, {})
    now = [lives.spell(place, 500).ref for place in range(4)]

    assert lives.refs(500, 500) == now
    mentioned = {lives.spell(place, tick).ref for place in range(4) for tick in range(300, 501)}
    assert set(lives.refs(300, 500)) == mentioned
    assert len(lives.refs(300, 500)) == len(mentioned)


def test_a_command_is_for_one_container_only() -> None:
    """What was re-created runs, whatever was done to the one before; the one that is gone cannot be commanded."""
    lives = Lives(7, 1, 50, {})
    cut = lives.spell(0, 0).until
    lives.apply(Input(0, 0, "stop"))

    assert lives.spell(0, 1) == Spell(0, 1, "exited", cut)
    assert lives.spell(0, cut)[:3] == (1, cut, "running")
    for ref in (0, 2, -1):
        with pytest.raises(KeyError):
            lives.apply(Input(cut - 1, ref, "start"))


def test_forgetting_keeps_the_commands_of_what_is_there() -> None:
    """Commands for containers that are gone are dropped, later ones are not."""
    lives = Lives(7, 1, 50, {})
    cut = lives.spell(0, 0).until
    lives.apply(Input(0, 0, "stop"))
    lives.apply(Input(cut, 1, "stop"))
    lives.forget(cut - 1)
    assert set(lives._orders) == {0, 1}

    lives.forget(cut)

    assert set(lives._orders) == {1}
    assert lives.spell(0, cut + 1).state == "exited"
