"""Hosts over REST: found by part of their name, by whether they are online, a page at a time, each tenant its own."""

from contextlib import AsyncExitStack
from typing import Any

from tests.support.rows import add_containers, execute
from tests.support.server import RunningServer, container, eventually, running_server


async def pages(server: RunningServer, query: str = "", org: str = "org-a") -> list[list[str]]:
    """The ids of every page."""
    found, after = [], ""
    while True:
        answer = await server.get(f"/api/hosts?limit=2{query}&after={after}", server.user_token(org))
        assert answer.status_code == 200, answer.text
        body = answer.json()
        found.append([host["id"] for host in body["hosts"]])
        if body["next"] is None:
            return found
        after = body["next"]


async def test_hosts_by_id_a_page_at_a_time(server: RunningServer) -> None:
    """Each host once, in order, on full pages; the last page says that it is the last, even if it is full."""
    async with AsyncExitStack() as stack:
        for host in ("h4", "h1", "h3", "h2"):
            await stack.enter_async_context(server.agent(host, hostname=f"box-of-{host.upper()}"))
        await stack.enter_async_context(server.agent("h0", "org-b"))

        assert await pages(server) == [["h1", "h2"], ["h3", "h4"]]
        assert await pages(server, org="org-b") == [["h0"]]
        assert await pages(server, org="org-c") == [[]]
        assert await pages(server, "&q=OF-h3") == [["h3"]]
        assert await pages(server, "&q=H1") == [["h1"]]
        assert await pages(server, "&q=%25") == [[]]
        assert await pages(server, "&online=true&q=h") == [["h1", "h2"], ["h3", "h4"]]
        assert await pages(server, "&online=false") == [[]]


async def test_a_host_as_it_stands(server: RunningServer) -> None:
    """Every field is there, online until its agent is gone; the database is not asked."""
    async with server.agent(cores=8, agent_version="1.2", hostname="box", containers=[container(0), container(1)]):
        shown = (await server.get("/api/hosts/host-1", server.user_token())).json()
        assert isinstance(shown.pop("last_seen"), int)
        assert shown == {
            "id": "host-1", "hostname": "box", "online": True, "agent_version": "1.2", "cores": 8, "containers": 2,
            "clock_skew_ms": None, "alert": None,
        }  # fmt: skip
        assert (await server.get("/api/hosts/host-1", server.user_token("org-b"))).status_code == 404

    await eventually(lambda: not server.service.registry.records["org-a", "host-1"].online)
    assert (await server.get("/api/hosts/host-1", server.user_token())).json()["online"] is False
    assert await pages(server, "&online=false") == [["host-1"]]


async def test_hosts_are_known_after_a_restart(database: str) -> None:
    """What an earlier process wrote is there, offline."""
    async with running_server(database) as server, server.agent():
        pass
    async with running_server(database) as server:
        (host,) = (await server.get("/api/hosts", server.user_token())).json()["hosts"]

    assert (host["id"], host["online"], host["containers"]) == ("host-1", False, 1)


async def test_containers_of_a_host(server: RunningServer, database: str) -> None:
    """By name, those gone left out, protected by label or by an admin; another's host is not there."""
    async with server.agent(containers=[]):
        await add_containers(
            database, {"name": "b", "protected": True}, {"name": "a"}, {"name": "c", "removed_at": 1},
            {"name": "d", "host": "host-2"}, {"name": "e"},
        )  # fmt: skip
        await execute(
            database, "INSERT INTO protection (org, host, series, protected_by, reason)"
            " VALUES ('org-a', 'host-1', 'a', 'ada', 'r'), ('org-b', 'host-1', 'e', 'eve', 'r')",
        )  # fmt: skip

        answer = await server.get("/api/hosts/host-1/containers", server.user_token())
        shown: list[dict[str, Any]] = answer.json()["containers"]
        assert [(c["name"], c["protected"]) for c in shown] == [("a", True), ("b", True), ("e", False)]
        for path, org in (("/api/hosts/host-2/containers", "org-a"), ("/api/hosts/host-1/containers", "org-b")):
            assert (await server.get(path, server.user_token(org))).status_code == 404


async def test_without_a_token(server: RunningServer) -> None:
    """Nothing is shown to who does not say who they are."""
    for path in ("/api/hosts", "/api/hosts/host-1", "/api/hosts/host-1/containers"):
        assert (await server.get(path)).status_code == 401
