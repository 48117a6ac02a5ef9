"""Names are chosen once per seed."""

from simulator.names import Names


def test_the_same_seed_gives_the_same_names() -> None:
    """Names of one seed are equal, of two seeds not, and their digests say so."""
    one, again, other = Names(1), Names(1), Names(2)

    assert one.hostname(77, 3) == again.hostname(77, 3)
    assert one.service(77, 1) == again.service(77, 1)
    assert one.digest == again.digest != other.digest


def test_images_have_tags() -> None:
    """Every container has a service and an image with a tag."""
    for container in range(25):
        service, image = Names(1).service(5, container)
        assert service
        assert ":" in image
