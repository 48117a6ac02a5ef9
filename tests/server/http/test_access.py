"""Every route with every role, and with the ids of another organisation. A route without its case fails.

The table that comes out is kept in docs/access.md; a change of who may do what shows there.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
from fastapi.routing import APIRoute

from server.auth.principal import ROLES
from server.protocol.identity import container_id
from tests.support.server import RunningServer, container, docker_id, eventually, line, now_us, sample

CANARY = "canary"
HOST = "canary-host"
SPARE = "canary-spare"
CONTAINER = str(container_id("org-a", HOST, docker_id(7)))
DOCUMENT = Path(__file__).parents[3] / "docs" / "access.md"
CALLERS = ("nobody", "agent", *ROLES)
_NUMBER = itertools.count()


@dataclass
class World:
    """What organisation A has, each name with the canary in it."""

    server: RunningServer
    action: str = ""
    enrolment: str = ""

    def enrolments(self) -> str:
        """A fresh enrolment token of organisation A."""
        return self.enrolment


@dataclass(frozen=True)
class Case:
    """How a route is called, and who may."""

    least: Literal["anybody", "agent", "viewer", "operator", "admin"]
    kind: Literal["public", "own", "id"]
    """own: acts within the caller's organisation, whatever it is; id: names something, foreign ids are not found."""
    path: Callable[[World], str]
    body: Callable[[World], Any] = field(default=lambda _: None)
    status: int = 200


def at(path: str) -> Callable[[World], str]:
    """A path of its own."""
    return lambda _: path


def new(**fields: Any) -> Callable[[World], Any]:
    """A body whose texts are new in each call: `{}` becomes a number."""
    return lambda _: {
        key: value.replace("{}", str(next(_NUMBER))) if isinstance(value, str) else value
        for key, value in fields.items()
    }


CASES: dict[tuple[str, str], Case] = {
    ("GET", "/livez"): Case("anybody", "public", at("/livez")),
    ("GET", "/readyz"): Case("anybody", "public", at("/readyz")),
    ("GET", "/metrics"): Case("anybody", "public", at("/metrics")),
    ("GET", "/api/test-load"): Case("anybody", "public", at("/api/test-load")),
    ("GET", "/asyncapi.json"): Case("anybody", "public", at("/asyncapi.json")),
    ("POST", "/api/live-tickets"): Case("viewer", "own", at("/api/live-tickets"), status=201),
    ("GET", "/api/hosts"): Case("viewer", "own", at("/api/hosts")),
    ("GET", "/api/hosts/{host}"): Case("viewer", "id", at(f"/api/hosts/{HOST}")),
    ("GET", "/api/hosts/{host}/containers"): Case("viewer", "id", at(f"/api/hosts/{HOST}/containers")),
    ("POST", "/api/hosts"): Case("admin", "own", at("/api/hosts"), new(host="new-{}"), 201),
    ("POST", "/api/hosts/{host}/revoke"): Case("admin", "id", at(f"/api/hosts/{SPARE}/revoke"), new(reason="test {}")),
    ("POST", "/api/agents/enroll"): Case("anybody", "public", at("/api/agents/enroll"), new(token="no-token-{}"), 401),
    ("POST", "/api/agents/renew"): Case("agent", "own", at("/api/agents/renew"), status=201),
    ("GET", "/api/containers"): Case("viewer", "own", at("/api/containers")),
    ("GET", "/api/containers/{container_id}"): Case("viewer", "id", at(f"/api/containers/{CONTAINER}")),
    ("PUT", "/api/containers/{container_id}/protection"): Case(
        "admin", "id", at(f"/api/containers/{CONTAINER}/protection"), new(protected=False, reason="test {}")
    ),
    ("GET", "/api/containers/{container_id}/metrics"): Case(
        "viewer", "id", at(f"/api/containers/{CONTAINER}/metrics?range=15m")
    ),
    ("GET", "/api/containers/{container_id}/logs"): Case("viewer", "id", at(f"/api/containers/{CONTAINER}/logs")),
    ("POST", "/api/containers/{container_id}/actions"): Case(
        "operator", "id", at(f"/api/containers/{CONTAINER}/actions"), new(kind="start", reason="test {}"), 202
    ),
    ("GET", "/api/actions"): Case("viewer", "own", at("/api/actions")),
    ("GET", "/api/actions/{action_id}"): Case("viewer", "id", lambda world: f"/api/actions/{world.action}"),
    ("GET", "/api/audit"): Case("admin", "own", at("/api/audit")),
    ("POST", "/api/revocations"): Case(
        "admin", "own", at("/api/revocations"), new(kind="user", subject="gone-{}", reason="test"), 201
    ),
    ("GET", "/api/revocations"): Case("admin", "own", at("/api/revocations")),
    ("GET", "/api/quotas"): Case("viewer", "own", at("/api/quotas")),
}


async def furnish(server: RunningServer) -> World:
    """Give organisation A something of everything."""
    world = World(server)
    admin = server.user_token("org-a", "admin", subject="canary-admin")
    hello: dict[str, Any] = {
        "containers": [container(7, name="canary-web", image="canary/web", labels={"canary": "canary"})]
    }
    async with server.agent(HOST, "org-a", machine_id="canary-machine", **hello) as agent:
        await agent.batch(1, metrics=[sample(ref=7)], logs=[line("canary line", now_us(), ref=7)])
        await agent.acked(1)
        await server.service.directory.write()
        for host in (SPARE,):
            answer = await server.call("POST", "/api/hosts", admin, json={"host": host})
            assert answer.status_code == 201, answer.text
            world.enrolment = answer.json()["enrolment_token"]
        answer = await server.call(
            "POST", f"/api/containers/{CONTAINER}/actions", admin, json={"kind": "start", "reason": "canary reason"}
        )
        assert answer.status_code == 202, answer.text
        world.action = answer.json()["action_id"]
        await agent.until("action")
        await server.call(
            "POST", "/api/revocations", admin, json={"kind": "user", "subject": "canary-gone", "reason": "canary"}
        )
    return world


def token_of(server: RunningServer, caller: str, org: str) -> str | None:
    """What a caller shows."""
    if caller == "nobody":
        return None
    if caller == "agent":
        return server.agent_token(HOST if org == "org-a" else "their-host", org)
    return server.user_token(org, caller, subject=f"{org}-{caller}")


async def call(world: World, key: tuple[str, str], caller: str, org: str) -> httpx.Response:
    """Call a route as somebody."""
    case = CASES[key]
    return await world.server.call(key[0], case.path(world), token_of(world.server, caller, org), json=case.body(world))


def expected(case: Case, caller: str) -> int:
    """The status that a caller of the right organisation gets."""
    if case.least == "anybody":
        return case.status
    if case.least == "agent":
        return case.status if caller == "agent" else 401
    if caller in {"nobody", "agent"}:
        return 401
    return case.status if ROLES.index(caller) >= ROLES.index(case.least) else 403


def routes(server: RunningServer) -> set[tuple[str, str]]:
    """The route table, from the application itself."""
    app = server.server.config.app
    found: set[tuple[str, str]] = set()
    waiting = list(app.routes)  # type: ignore[union-attr]
    while waiting:
        route = waiting.pop()
        if isinstance(route, APIRoute):
            found |= {(method, route.path) for method in (route.methods or set()) - {"HEAD"}}
    documented = app.openapi()["paths"]  # type: ignore[union-attr]
    return found | {(method.upper(), path) for path, methods in documented.items() for method in methods}


async def test_every_route_has_its_case(server: RunningServer) -> None:
    """A new route without a line in CASES fails here, as does a line whose route is gone."""
    assert routes(server) == set(CASES)


async def test_every_route_with_every_role(server: RunningServer) -> None:
    """Each caller gets the status that the least role says; the table is the one in docs/access.md."""
    world = await furnish(server)
    wrong = []
    rows = []
    for key, case in sorted(CASES.items(), key=lambda item: (item[0][1], item[0][0])):
        statuses = []
        for caller in CALLERS:
            answer = await call(world, key, caller, "org-a")
            statuses.append(answer.status_code)
            if answer.status_code != expected(case, caller):
                wrong.append((key, caller, answer.status_code, answer.text[:200]))
        rows.append(f"| `{key[0]} {key[1]}` | {' | '.join(map(str, statuses))} |")
    assert wrong == []
    table = "\n".join([f"| route | {' | '.join(CALLERS)} |", "|---|" + "---|" * len(CALLERS), *rows])
    assert table in DOCUMENT.read_text(), f"docs/access.md: expected this table\n{table}"


async def test_no_route_shows_a_byte_of_another_organisation(server: RunningServer) -> None:
    """With the ids of organisation A an Owner of B gets 404, the same as for ids of nobody, and never a name of A."""
    world = await furnish(server)
    for key, case in CASES.items():
        if case.kind == "public":
            continue
        for caller in ("agent", *ROLES) if case.least == "agent" else ROLES:
            answer = await call(world, key, caller, "org-b")
            body = answer.text.replace(HOST, "").replace(SPARE, "") if answer.status_code == 404 else answer.text
            assert CANARY not in body, (key, caller, answer.text)
            assert world.action not in body.replace(f"/api/actions/{world.action}", "")
            if case.kind == "id" and expected(case, caller) == case.status:
                assert answer.status_code == 404, (key, caller, answer.status_code, answer.text)
    assert await server.service.history.owns_container("org-b", int(CONTAINER)) is False


async def test_nothing_of_another_organisation_is_changed(server: RunningServer) -> None:
    """What an Owner of B tried on A left no trace in A: no action, no audit row, no revocation, no protection."""
    world = await furnish(server)
    admin = server.user_token("org-a", "admin", subject="canary-admin")

    async def state() -> list[Any]:
        paths = ("/api/actions", "/api/audit", "/api/revocations", f"/api/containers/{CONTAINER}")
        return [(await server.get(path, admin)).json() for path in paths]

    before = await state()
    for key, case in CASES.items():
        if case.kind == "id":
            await call(world, key, "owner", "org-b")
    assert await state() == before
    assert before[1]["entries"]


async def test_access_to_a_live_socket_is_no_wider(server: RunningServer) -> None:
    """The topics of A, asked by an Owner of B by every message there is, bring errors and not a byte of A."""
    from server.protocol.messages import MESSAGES, type_of

    await furnish(server)
    topics = [f"host:{HOST}", f"container:{CONTAINER}", f"logs:{CONTAINER}"]
    messages: dict[str, dict[str, Any]] = {
        "subscribe": {"topics": topics}, "unsubscribe": {"topics": topics}, "pause": {"topics": topics},
        "resume": {"topics": topics, "since": {"at": 0}}, "heartbeat": {"at": 1},
    }  # fmt: skip
    assert {type_of(message) for message in MESSAGES["live"]} == set(messages)
    async with (
        server.live("org-b") as live,
        server.agent(HOST, "org-a", machine_id="canary-machine", containers=[container(7, name="canary-web")]) as agent,
    ):
        received: list[dict[str, Any]] = []
        for kind, fields in messages.items():
            await live.send({"type": kind} | fields)
        await live.send({"type": "subscribe", "topics": ["fleet", "actions"]})
        await agent.batch(1, metrics=[sample(ref=7)], logs=[line("canary line", now_us(), ref=7)])
        await agent.acked(1)
        await live.send({"type": "heartbeat", "at": 2})
        while not received or received[-1] | {"at": 2, "type": "heartbeat"} != received[-1]:
            received.append(await live.receive())
    errors = [m for m in received if m["type"] == "error"]
    assert [error["code"] for error in errors] == ["not_found"] * 9
    rest = [m for m in received if m["type"] != "error"]
    assert CANARY not in str(rest)
    assert CONTAINER not in str(rest)


async def test_an_agent_reaches_only_its_own_organisation(server: RunningServer) -> None:
    """An agent of B with A's host name, Docker ids and action ids, by every message there is, changes nothing of A."""
    from server.protocol.messages import MESSAGES, type_of

    world = await furnish(server)
    viewer = server.user_token("org-a")
    before = (await server.get(f"/api/actions/{world.action}", viewer)).json()
    result = {"action_id": world.action, "outcome": "failed", "finished_at": now_us(), "detail": "theirs"}
    messages: dict[str, dict[str, Any]] = {
        "inventory": {"at": now_us(), "upserts": [container(7, name="theirs", state="exited")]},
        "batch": {
            "seq": 1, "oldest": 1, "at": now_us(), "metrics": [sample(ref=7)], "logs": [line("theirs", now_us(), ref=7)],
        },
        "pulse": {"at": now_us(), "metrics": [sample(ref=7)]},
        "action_result": result,
        "heartbeat": {"at": 1},
    }  # fmt: skip
    assert {type_of(message) for message in MESSAGES["agent"]} == {*messages, "hello", "bye"}
    hello: dict[str, Any] = {"containers": [container(7, name="theirs")], "unacknowledged_results": [result]}
    async with server.agent(HOST, "org-b", **hello) as agent:
        for kind, fields in messages.items():
            await agent.send({"type": kind} | fields)
        await agent.until("result_ack")
        await agent.batch(2, metrics=[sample(ref=7)])
        await agent.acked(2)
        await agent.send({"type": "bye"})
        await agent.closed()
    await server.service.directory.write()
    assert (await server.get(f"/api/actions/{world.action}", viewer)).json() == before
    names = (await server.get(f"/api/hosts/{HOST}/containers", viewer)).json()["containers"]
    assert [(c["name"], c["state"]) for c in names] == [("canary-web", "running")]
    lines = (await server.get(f"/api/containers/{CONTAINER}/logs?format=json", viewer)).text
    assert "canary line" in lines
    assert "theirs" not in lines
    await eventually(lambda: server.service.counters.action_results_unknown >= 1, "counted")
