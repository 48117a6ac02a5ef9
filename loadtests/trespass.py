"""A browser that asks for what is another organisation's, by its true names: it must get nothing but refusals."""

from random import Random

from loadtests.api import Api, ContainerPage, HostPage, Identity
from loadtests.recorded import Measurements
from loadtests.tab import Tab


def trespass(tab: Tab, api: Api, measurements: Measurements, chance: Random) -> None:
    """Ask for a host, a container and its log of the next organisation, over the socket and over the API.

    The names come from the API, in the name of somebody who belongs there. An answer other than a refusal is a failure
    `foreign`; `trespasses` counts the attempts.

    Raises:
        LiveClosedError, TimeoutError: see `Tab`.
    """
    found = tab.fetch(lambda: _abroad(api, chance))
    if found is None:
        return
    host, container = found
    topics = (f"host:{host}", f"container:{container}", f"logs:{container}")
    tab.trespass(*topics)
    tab.settle()
    for topic in tab.watch.trespasses():
        measurements.failure("foreign", f"{topic} of another organisation was not refused")
    paths = {
        f"/api/hosts/{host}/containers": "/api/hosts/[id]/containers",
        f"/api/containers/{container}": "/api/containers/[id]",
        f"/api/containers/{container}/metrics": "/api/containers/[id]/metrics",
        f"/api/containers/{container}/logs": "/api/containers/[id]/logs",
    }
    tab.fetch(lambda: _knock(api, measurements, paths))
    measurements.trespassed(len(topics) + len(paths))


def _abroad(api: Api, chance: Random) -> tuple[str, str] | None:
    """A host of the next organisation and one of its containers; None: it has none yet."""
    there = Identity(api.identity.subject, tenant=api.identity.tenant.neighbour())
    page = api.get("/api/hosts", HostPage, params={"limit": 100}, identity=there)
    hosts = [host.id for host in page.hosts if host.containers] if page else []
    if not hosts:
        return None
    host = chance.choice(hosts)
    listed = api.get(f"/api/hosts/{host}/containers", ContainerPage, "/api/hosts/[id]/containers", identity=there)
    containers = [container.id for container in listed.containers] if listed else []
    return (host, chance.choice(containers)) if containers else None


def _knock(api: Api, measurements: Measurements, paths: dict[str, str]) -> None:
    for path, name in paths.items():
        answer = api.send("GET", path, expect=(403, 404), name=f"{name} (of others)")
        if answer.status == 200:
            measurements.failure("foreign", f"GET {path}: of another organisation, and answered", medium="API")
