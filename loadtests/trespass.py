"""A browser that asks for what is another organisation's, by its true names: it must get nothing but refusals."""

from random import Random
from typing import Any, NamedTuple

from loadtests.api import ActionPage, Api, ContainerPage, HostPage, Identity
from loadtests.recorded import Measurements
from loadtests.tab import Tab

OWNER = "owner"
"""Who may do everything at home is refused abroad for being abroad, and for nothing else."""
REASON = "trespass on another organisation: must be refused and never executed"
ACTIONS = 20
"""Of the newest ones of the next organisation one is asked for."""


class Abroad(NamedTuple):
    """What there is in the next organisation."""

    host: str
    container: str
    action: str
    """Empty: there was none yet."""


def trespass(tab: Tab, api: Api, measurements: Measurements, chance: Random, run: str) -> None:
    """Ask for a host, a container, its log and an action of the next organisation, over the socket and over the API.

    The names come from the API, in the name of somebody who belongs there. `trespasses` counts the attempts that were
    refused. What is shown or taken is a failure `foreign`; what ends otherwise, as with 500, `not_proven`.

    Args:
        tab: of the browser.
        api: of its user.
        measurements: told of it all.
        chance: chooses what is asked for.
        run: begins the reason of the attempt to act, so that a row of it in an audit log is one too many.

    Raises:
        LiveClosedError, TimeoutError: see `Tab`.
    """
    found = tab.fetch(lambda: _abroad(api, chance))
    if found is None:
        return
    tab.trespass(f"host:{found.host}", f"container:{found.container}", f"logs:{found.container}")
    tab.settle()
    told = tab.watch.trespassed()
    for topic in told.open:
        measurements.failure("foreign", f"{topic} of another organisation was not refused")
    for topic in told.unproven:
        measurements.failure("not_proven", f"{topic} of another organisation: another error than a refusal")
    measurements.trespassed(len(told.refused))
    measurements.trespassed(tab.fetch(lambda: _knock(api, measurements, found, run)))


def _abroad(api: Api, chance: Random) -> Abroad | None:
    """A host of the next organisation, one of its containers and an action there; None: it has no container yet."""
    there = Identity(api.identity.subject, tenant=api.identity.tenant.neighbour())
    page = api.get("/api/hosts", HostPage, params={"limit": 100}, identity=there)
    hosts = [host.id for host in page.hosts if host.containers] if page else []
    if not hosts:
        return None
    host = chance.choice(hosts)
    listed = api.get(f"/api/hosts/{host}/containers", ContainerPage, "/api/hosts/[id]/containers", identity=there)
    containers = [container.id for container in listed.containers] if listed else []
    if not containers:
        return None
    newest = api.get("/api/actions", ActionPage, params={"limit": ACTIONS}, identity=there)
    actions = [action.action_id for action in newest.actions] if newest else []
    return Abroad(host, chance.choice(containers), chance.choice(actions) if actions else "")


def _knock(api: Api, measurements: Measurements, found: Abroad, run: str) -> int:
    """Over the API; how often it was refused."""
    container = f"/api/containers/{found.container}"
    reads = {
        f"/api/hosts/{found.host}/containers": "/api/hosts/[id]/containers",
        container: "/api/containers/[id]",
        f"{container}/metrics": "/api/containers/[id]/metrics",
        f"{container}/logs": "/api/containers/[id]/logs",
    } | ({f"/api/actions/{found.action}": "/api/actions/[id]"} if found.action else {})
    refused = sum(_try(api, measurements, "GET", path, name, api.identity) for path, name in reads.items())
    owner = Identity(api.identity.subject, OWNER, api.identity.tenant)
    # Should it be taken all the same, it starts what runs already.
    body = {"kind": "start", "reason": f"{run}/{REASON}", "expires_in_seconds": 1}
    acts = _try(api, measurements, "POST", f"{container}/actions", "/api/containers/[id]/actions", owner, json=body)
    return refused + acts


def _try(
    api: Api, measurements: Measurements, method: str, path: str, name: str, identity: Identity, **options: Any
) -> bool:
    """Whether a request was refused."""
    answer = api.send(method, path, expect=(403, 404), name=f"{name} (of others)", identity=identity, **options)
    if answer.status in {403, 404}:
        return True
    told = f"{method} {path} of another organisation: HTTP {answer.status}"
    measurements.failure("foreign" if 200 <= answer.status < 300 else "not_proven", told, medium="API")
    return False
