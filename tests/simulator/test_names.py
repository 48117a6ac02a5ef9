"""Names are chosen once per seed."""

import pytest

from simulator.names import Names
from simulator.profiles import PROFILES, Profile


def test_the_same_seed_gives_the_same_names() -> None:
    """Names of one seed are equal, of two seeds not, and their digests say so."""
    one, again, other = Names(1), Names(1), Names(2)

    assert one.hostname(77, 3) == again.hostname(77, 3)
    assert one.service(77, Profile.WORKER, 1) == again.service(77, Profile.WORKER, 1)
    assert one.digest == again.digest != other.digest


@pytest.mark.parametrize("profile", PROFILES)
def test_containers_of_a_profile_have_names_of_their_own(profile: Profile) -> None:
    """Every container has a service, an image with a tag, and a name that no other has."""
    services = [Names(1).service(5, profile, rank) for rank in range(25)]

    assert all(":" in service.image for service in services)
    assert len({service.container for service in services}) == 25
    assert services[0].number == 1
