"""Where simulated users find something to look at or to act on."""

import random
import time
from collections.abc import Callable

from loadtests.api import Api, ContainerPage
from server.protocol.messages import ContainerStatus, HostStatus

REFRESH_SECONDS = 20.0
HOSTS = 1000
"""Hosts that are known at once: a page."""
TRIES = 5
"""Hosts looked at for a container that fits."""


class Places:
    """Hosts and containers of the user's organisation, as fresh as a user's screen; `chance` chooses."""

    def __init__(self, api: Api, chance: random.Random | None = None) -> None:
        self._api = api
        self._chance = chance or random.Random()
        self._hosts: list[HostStatus] = []
        self._refresh_at = 0.0

    def container(self, fits: Callable[[ContainerStatus], bool]) -> ContainerStatus | None:
        """A container of an online host that fits now; None: none was found."""
        hosts = self._online()
        for host in self._chance.sample(hosts, min(TRIES, len(hosts))):
            page = self._api.get(f"/api/hosts/{host.id}/containers", ContainerPage, "/api/hosts/[id]/containers")
            found = [container for container in page.containers if fits(container)] if page else []
            if found:
                return self._chance.choice(found)
        return None

    def _online(self) -> list[HostStatus]:
        if time.monotonic() >= self._refresh_at:
            self._hosts = [host for host in self._api.hosts(HOSTS, online=True) if host.online]
            # An empty fleet is one that begins: look again soon.
            self._refresh_at = time.monotonic() + (REFRESH_SECONDS if self._hosts else 1.0)
        return self._hosts


def is_running(container: ContainerStatus) -> bool:
    """Whether samples of it can be expected."""
    return container.state == "running"
