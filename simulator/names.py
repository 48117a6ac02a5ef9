"""Names and images for simulated hosts and containers, chosen once per seed."""

from hashlib import sha256
from typing import NamedTuple

from faker import Faker

from simulator.profiles import Profile
from simulator.signals import noise

_SERVICES: dict[Profile, tuple[tuple[str, str | None], ...]] = {
    Profile.WEB: (("web", "nginx:1.29"), ("api", None), ("proxy", "traefik:v3.6"), ("gateway", None)),
    Profile.DATABASE: (("db", "postgres:18"), ("cache", "valkey/valkey:9"), ("queue", "rabbitmq:4-management")),
    Profile.WORKER: (("worker", None), ("mailer", None), ("indexer", None)),
    Profile.CRON: (("scheduler", None), ("backup", "restic/restic:0.18.0")),
    Profile.IDLE: (
        ("metrics", "prom/prometheus:v3.7.0"),
        ("docs", None),
        ("adminer", "adminer:5"),
        ("storybook", None),
    ),
    Profile.LEAKING: (("reports", None),),
    Profile.CRASH_LOOPING: (("importer", None),),
}
"""Compose services by what their containers do; None: an image of the project's own."""


class Service(NamedTuple):
    """What a container is called."""

    project: str
    name: str
    number: int
    """Of the service's containers on the host, from 1."""
    image: str

    @property
    def container(self) -> str:
        """The container's name, as Compose makes it."""
        return f"{self.project}-{self.name}-{self.number}"


class Names:
    """The names of one seed.

    Attributes:
        digest: hexadecimal; equal digests mean equal names.
    """

    __slots__ = ("_projects", "_sites", "digest")

    def __init__(self, seed: int) -> None:
        fake = Faker("en_US")
        fake.seed_instance(seed ^ 0x6E616D65)
        self._projects = tuple(f"{fake.color_name().lower()}-{fake.word()}" for _ in range(64))
        self._sites = tuple(fake.city().lower().replace(" ", "-").replace("'", "") for _ in range(64))
        self.digest = sha256(repr((self._projects, self._sites)).encode()).hexdigest()

    def hostname(self, key: int, agent: int) -> str:
        """A host's name: its site and its number."""
        return f"{self._sites[noise(key, 1) % len(self._sites)]}-{agent}"

    def project(self, key: int) -> str:
        """The Compose project that runs on a host."""
        return self._projects[noise(key, 2) % len(self._projects)]

    def service(self, key: int, profile: Profile, rank: int) -> Service:
        """What the `rank`-th container (from 0) of a profile on a host is called: past the catalogue's end come replicas."""
        catalogue = _SERVICES[profile]
        name, image = catalogue[rank % len(catalogue)]
        project = self.project(key)
        bits = noise(key, 8 + len(name))
        image = image or f"ghcr.io/{project}/{name}:{bits % 9}.{bits >> 8 & 31}.{bits >> 16 & 15}"
        return Service(project, name, rank // len(catalogue) + 1, image)
