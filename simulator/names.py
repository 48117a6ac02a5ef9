"""Names and images for simulated hosts and containers, chosen once per seed."""

from hashlib import sha256

from faker import Faker

from simulator.signals import noise

_SERVICES = (
    ("web", "nginx:1.29"),
    ("api", None),
    ("worker", None),
    ("db", "postgres:18"),
    ("cache", "valkey/valkey:9"),
    ("queue", "rabbitmq:4-management"),
    ("scheduler", None),
    ("metrics", "prom/prometheus:v3.7.0"),
    ("proxy", "traefik:v3.6"),
    ("mailer", None),
)
"""Compose services; None: an image of the project's own."""


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

    def service(self, key: int, container: int) -> tuple[str, str]:
        """Service and image of a host's container. Past the catalogue's end services repeat as replicas."""
        name, image = _SERVICES[container % len(_SERVICES)]
        bits = noise(key, 3 + container % len(_SERVICES))
        return name, image or f"ghcr.io/{self.project(key)}/{name}:{bits % 9}.{bits >> 8 & 31}.{bits >> 16 & 15}"
