"""Who watches what."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from loadtests.bench.receivers_plan import spread


@given(st.integers(1, 40), st.integers(1, 30), st.data())
def test_topics_are_dealt_out_evenly(count: int, sockets: int, data: st.DataObject) -> None:
    """Each socket has as many as it was promised, all different; no topic has two watchers more than another."""
    each = data.draw(st.integers(1, count))
    topics = [f"container:{number}" for number in range(count)]

    dealt = spread(topics, sockets, each, seed=1)

    assert [len(set(watched)) for watched in dealt] == [each] * sockets
    watchers = Counter(topic for watched in dealt for topic in watched)
    assert set(watchers) <= set(topics)
    assert max(watchers.values()) - min(watchers[topic] for topic in topics) <= 1


def test_the_seed_decides() -> None:
    """The same seed deals the same, another one something else, and neither goes through the fleet host by host."""
    topics = [f"container:{number}" for number in range(100)]

    assert spread(topics, 3, 10, seed=1) == spread(topics, 3, 10, seed=1) != spread(topics, 3, 10, seed=2)
    assert spread(topics, 1, 10, seed=1)[0] != topics[:10]
