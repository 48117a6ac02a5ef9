"""What simulated browsers do on a visit: they walk through the pages, read slowly, or lose their connection."""

import random
import time
from collections.abc import Callable
from typing import NamedTuple

from loadtests.answers import Chart
from loadtests.api import Api, ContainerPage
from loadtests.places import Places, is_running
from loadtests.received import Received
from loadtests.recorded import Measurements
from loadtests.stored import StoredCheck
from loadtests.tab import Tab, open_tab
from loadtests.trespass import trespass
from loadtests.ws_client import LOST, LiveClosedError
from server.protocol.close_codes import CloseCode
from server.protocol.messages import HostStatus

TAIL_LINES = 200
HOSTS = 100
"""Hosts that a page shows."""
FLEET, HOST, CONTAINER, LOG, PAUSED, RESUMED = 0.1, 0.2, 0.2, 0.2, 0.1, 0.2
"""Share of a visit that is spent on each page, with the log tail beside the container: running, paused, running again."""
THINKS = (0.7, 1.3)
"""Users stay on a page for a random part of its time, from so much to so much."""
SLOW_HOSTS = 20
"""Hosts that a slow browser watches at once."""
RATE_SECONDS = 3.0
"""So long a slow browser reads as fast as it can, to learn how much comes."""
SLOWNESS = 10.0
TOO_SLOW = frozenset({CloseCode.SLOW_CONSUMER, 1011, LOST})
"""How a server ends a connection that is not read: with 4008, or with 1011, because a ping waits unread behind all the rest.

Of either a browser may see nothing but the end (1006), where it has not read so far. A lost connection looks the same: at
the end of a run the claims are held against the server's own count."""
CONNECTED_SECONDS = (2.0, 6.0)
AWAY_SECONDS = (0.0, 1.0)
"""How long a reconnecting browser keeps a connection, and how long it then has none."""


class Visitor(NamedTuple):
    """Who visits, and with what."""

    api: Api
    host: str
    """The server's http(s) address."""
    measurements: Measurements
    stored: StoredCheck
    chance: random.Random
    """Of this user alone, so that the same seed makes the same visits."""
    run: str
    """The run's name."""

    def hosts(self) -> list[HostStatus]:
        """Those of the fleet's page that have something to look at."""
        return self.api.hosts(HOSTS)

    def containers(self, host: str) -> list[str]:
        """Ids of a host's containers."""
        listed = self.api.get(f"/api/hosts/{host}/containers", ContainerPage, "/api/hosts/[id]/containers")
        return [container.id for container in listed.containers] if listed else []


def walk(visitor: Visitor, seconds: float) -> None:
    """The fleet, one host, one of its containers, and the tail of its log, which is paused for a while."""
    tab = open_tab(visitor.api, visitor.host, visitor.measurements)
    if tab is not None:
        _in_order(visitor, tab, lambda: _walk(visitor, tab, seconds))


def _walk(visitor: Visitor, tab: Tab, seconds: float) -> None:
    def think(share: float) -> None:
        tab.read(seconds * share * visitor.chance.uniform(*THINKS))

    tab.settle()
    tab.subscribe("fleet")
    if visitor.api.identity.tenant.of > 1:
        trespass(tab, visitor.api, visitor.measurements, visitor.chance, visitor.run)
    hosts = tab.fetch(visitor.hosts)
    think(FLEET)
    if not hosts:
        return
    host = visitor.chance.choice(hosts).id
    containers = tab.fetch(lambda: visitor.containers(host))
    if not containers:
        return
    tab.subscribe(f"host:{host}", hosts={host: containers})
    tab.unsubscribe("fleet")
    think(HOST)
    chosen = visitor.chance.choice(containers)
    visitor.stored.check_samples(tab, f"host:{host}", chosen)
    log, container = f"logs:{chosen}", f"container:{chosen}"
    tab.subscribe(container)
    tab.unsubscribe(f"host:{host}")
    path = f"/api/containers/{chosen}/metrics"
    tab.fetch(lambda: visitor.api.get(path, Chart, "/api/containers/[id]/metrics", params={"range": "15m"}))
    think(CONTAINER)
    tab.subscribe(log, tail=TAIL_LINES)
    think(LOG)
    visitor.stored.check(tab, chosen)
    tab.pause(container, log)
    tab.settle()  # from now on nothing of them may come
    think(PAUSED)
    tab.resume(container)
    tab.resume(log, since=tab.watch.received.last_line(log))
    think(RESUMED)
    visitor.stored.check(tab, chosen)


def read_slowly(visitor: Visitor, seconds: float) -> None:
    """Many hosts and a log at once, read at a tenth of the rate at which they come.

    The server must tell what it leaves out: lines by a gap, and if all is too much by closing with 4008.
    """
    tab = open_tab(visitor.api, visitor.host, visitor.measurements, slow=True)
    if tab is None:
        return
    watched: list[str] = []

    def look() -> None:
        tab.settle()
        hosts = tab.fetch(visitor.hosts)
        shown = visitor.chance.sample(hosts, min(SLOW_HOSTS, len(hosts)))
        found = tab.fetch(lambda: {host.id: visitor.containers(host.id) for host in shown})
        containers = [container for listed in found.values() for container in listed]
        if not containers:
            return
        chosen = visitor.chance.choice(containers)
        watched.append(chosen)
        tab.subscribe("fleet", *(f"host:{host}" for host in found), f"container:{chosen}", hosts=found)
        tab.subscribe(f"logs:{chosen}", tail=TAIL_LINES)
        began, before = time.monotonic(), tab.read_bytes
        tab.read(RATE_SECONDS)
        rate = (tab.read_bytes - before) / (time.monotonic() - began)
        tab.read_slowly(max(0.0, seconds - RATE_SECONDS), max(1.0, rate / SLOWNESS))
        visitor.stored.check(tab, chosen)

    _in_order(
        visitor, tab, look, too_slow=lambda: visitor.stored.check(tab, watched[0], closed=True) if watched else None
    )


def reconnect(visitor: Visitor, seconds: float) -> None:
    """One container and its log over many connections, each with a ticket of its own; the log goes on where it was."""
    chosen = Places(visitor.api, visitor.chance).container(is_running)
    if chosen is None:
        return
    received = Received()
    log, container = f"logs:{chosen.id}", f"container:{chosen.id}"
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        tab = open_tab(visitor.api, visitor.host, visitor.measurements, received)
        if tab is None:
            return
        stays = visitor.chance.uniform(*CONNECTED_SECONDS)
        last = stays >= left

        def look(tab: Tab = tab, stays: float = min(stays, left), last: bool = last) -> None:
            tab.settle()
            known = received.last_line(log)
            received.begun(
                container
            )  # its snapshot may be refused: what came over another connection proves nothing of this
            tab.subscribe(container, hosts={chosen.host: {chosen.id}})
            tab.subscribe(log, tail=0 if known else TAIL_LINES)
            tab.settle()
            if known:
                tab.resume(log, since=known)
            tab.read(stays)
            if last:
                visitor.stored.check(tab, chosen.id)

        # A network does not say goodbye.
        if not _in_order(visitor, tab, look, leaves=last or visitor.chance.random() < 0.5):
            return
        if not last:
            time.sleep(visitor.chance.uniform(*AWAY_SECONDS))


def _in_order(
    visitor: Visitor,
    tab: Tab,
    look: Callable[[], None],
    *,
    leaves: bool = True,
    too_slow: Callable[[], None] | None = None,
) -> bool:
    """Look, and leave; whether nothing went wrong.

    Args:
        visitor: who looks.
        tab: which is closed afterwards, however it ends.
        look: raises what ends it.
        leaves: says goodbye; else the connection is cut.
        too_slow: what to do when the server finds us too slow; without it that is a failure.
    """
    try:
        look()
        if leaves:
            tab.settle()
            tab.watch.end()
    except LiveClosedError as closed:
        if closed.code in TOO_SLOW and too_slow is not None:
            visitor.measurements.slow_closed(closed.code)
            too_slow()
        else:
            visitor.measurements.closed(closed.code, closed.reason)
        return False
    except TimeoutError as error:
        visitor.measurements.failure("silent", str(error))
        return False
    finally:
        if leaves:
            tab.close()
        else:
            tab.cut()
    return True
