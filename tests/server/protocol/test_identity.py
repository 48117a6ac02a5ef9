"""Names that both ends derive: the same for the same input, on every machine, for ever."""

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocol.identity import container_id, series_name

DOCKER_ID = "4d" * 32
PINNED = 3_235_895_886_539_723_779


def test_the_key_is_pinned() -> None:
    """The number of a known container: stored rows would lose their container if the rule changed."""
    assert container_id("demo", "host-00001", DOCKER_ID) == PINNED


def test_the_rule_as_documented() -> None:
    """Counted parts, 8 bytes of BLAKE2b under the project's person, the top bit cleared."""
    data = b"".join(len(part).to_bytes(4, "big") + part for part in (b"demo", "é".encode(), b"c"))
    digest = int.from_bytes(blake2b(data, digest_size=8, person=b"seatrial.cid").digest(), "big")

    assert container_id("demo", "é", "c") == digest % 2**63


@given(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4))
def test_it_fits_a_bigint(org: str, host: str, docker_id: str) -> None:
    """A key is a number that Postgres' bigint holds and is never negative."""
    assert 0 <= container_id(org, host, docker_id) < 2**63


@given(*[st.tuples(*[st.sampled_from(["", "a", "b", "ab", "ba", "\x00"])] * 3)] * 2)
def test_no_two_containers_share_an_input(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    """Moving a character from one part to the next makes another key: tenants cannot name each other's containers."""
    assert (container_id(*one) == container_id(*other)) == (one == other)


@pytest.mark.parametrize(
    ("labels", "series"),
    [
        ({}, "shop-web-1"),
        ({"com.docker.compose.project": "shop"}, "shop-web-1"),
        ({"com.docker.compose.service": "web"}, "shop-web-1"),
        ({"com.docker.compose.project": "", "com.docker.compose.service": "web"}, "shop-web-1"),
        ({"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}, "shop/web"),
        (
            {
                "com.docker.compose.project": "shop", "com.docker.compose.service": "web",
                "com.docker.compose.container-number": "1",
            },
            "shop/web",
        ),
        (
            {
                "com.docker.compose.project": "shop", "com.docker.compose.service": "web",
                "com.docker.compose.container-number": "2",
            },
            "shop/web/2",
        ),
    ],
)  # fmt: skip
def test_a_series_survives_a_new_container(labels: dict[str, str], series: str) -> None:
    """Compose labels name the workload; without them the container's name does."""
    assert series_name("shop-web-1", labels) == series
