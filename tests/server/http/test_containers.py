"""Containers over REST: every filter, paging while rows change, and nothing of others."""

import base64
from typing import Any

import pytest

from tests.support.rows import add_containers, execute
from tests.support.server import RunningServer, container, docker_id

SHOP = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web", "team": "a=b"}


async def find(server: RunningServer, query: str = "", org: str = "org-a") -> list[dict[str, Any]]:
    """Containers that match."""
    answer = await server.get(f"/api/containers?{query}", server.user_token(org))
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["containers"]
    return found


async def names(server: RunningServer, query: str = "", org: str = "org-a") -> list[str]:
    """Their names, sorted."""
    return sorted(container["name"] for container in await find(server, query, org))


async def test_every_filter(server: RunningServer, database: str) -> None:
    """Each filter finds what it says and no more; together they narrow."""
    await add_containers(
        database,
        {"name": "Shop-web-1", "labels": SHOP, "image": "nginx:1.29"},
        {"name": "db", "image": "postgres", "state": "exited", "labels": {"team": "x"}},
        {"name": "100%", "host": "host-2"},
        {"name": "a_b", "host": "host-2", "labels": {"team": "a=b"}},
        {"name": "axb", "removed_at": 1_000_000, "state": "removed"},
        {"name": "other", "org": "org-b"},
    )

    for query, expected in {
        "": ["100%", "Shop-web-1", "a_b", "db"],
        "q=shop": ["Shop-web-1"],
        "q=shop/web": ["Shop-web-1"],
        "q=POSTGRES": ["db"],
        "q=%25": ["100%"],
        "q=_": ["a_b"],
        "q=_&include_removed=true": ["a_b"],
        "q=axb": [],
        "host=host-2": ["100%", "a_b"],
        "series=shop/web": ["Shop-web-1"],
        "series=shop": [],
        "state=exited": ["db"],
        "state=removed&include_removed=true": ["axb"],
        "image=nginx": ["100%", "a_b"],
        "image=nginx:1.29": ["Shop-web-1"],
        "label=team=a=b": ["Shop-web-1", "a_b"],
        "label=team=a=b&label=com.docker.compose.project=shop": ["Shop-web-1"],
        "label=team=a": [],
        "label=team=a=b&label=team=x": [],
        "label=team=a=b&host=host-2&q=A_": ["a_b"],
    }.items():
        assert await names(server, query) == expected, query
    assert await names(server, org="org-b") == ["other"]
    assert await names(server, org="org-c") == []


async def test_pages_hold_every_container_once(server: RunningServer, database: str) -> None:
    """By host, series and id; what is added or goes meanwhile moves no other from its page."""
    await add_containers(database, *({"name": f"Ünï-{i % 5}", "host": f"host-{i % 3}"} for i in range(23)))
    whole = [container["id"] for container in await find(server, "limit=1000")]
    found, query, sizes = list[str](), "limit=4", list[int]()
    while True:
        body = (await server.get(f"/api/containers?{query}", server.user_token())).json()
        found += [container["id"] for container in body["containers"]]
        sizes.append(len(body["containers"]))
        if body["next"] is None:
            break
        query = f"limit=4&after={body['next']}"
        last = body["containers"][-1]
        await execute(database, "DELETE FROM container WHERE container_id = $1", int(last["id"]))
        await execute(database, "UPDATE container SET state = 'exited' WHERE host = 'host-0'")

    assert found == whole
    assert sizes == [4, 4, 4, 4, 4, 3]
    shown = [(c["host"], c["series"], int(c["id"])) for c in await find(server)]
    assert shown == sorted(shown)


async def test_a_container_as_it_stands(server: RunningServer) -> None:
    """Every field is there, null where there is nothing; once it is gone it says since when."""
    async with server.agent(containers=[container(0, labels=SHOP, memory_limit_bytes=7, protected=True)]) as agent:
        await server.service.directory.write()
        (listed,) = await find(server)
        number = listed["id"]
        assert listed == (await server.get(f"/api/containers/{number}", server.user_token())).json()
        assert listed == {
            "id": number, "host": "host-1", "docker_id": docker_id(0), "name": "web-0", "series": "shop/web",
            "image": "nginx", "state": "running", "protected": True, "memory_limit_bytes": 7, "labels": SHOP,
            "removed_at": None,
        }  # fmt: skip
        await agent.send({"type": "inventory", "at": 1, "removed": [0]})
        await agent.batch(1, metrics=[])
        await agent.acked(1)
        await server.service.directory.write()

        gone = (await server.get(f"/api/containers/{number}", server.user_token())).json()
        assert (gone["state"], gone["removed_at"] > 0) == ("removed", True)
        assert await find(server) == []
        assert [c["id"] for c in await find(server, "include_removed=true")] == [number]
        assert (await server.get(f"/api/containers/{number}", server.user_token("org-b"))).status_code == 404


async def test_protected_by_an_admin(server: RunningServer, database: str) -> None:
    """A row for its organisation, host and series protects a container without its label; no other row does."""
    number, other = await add_containers(database, {"name": "a"}, {"name": "a", "host": "host-2"})
    await execute(
        database, "INSERT INTO protection (org, host, series, protected_by, reason) VALUES ('org-a', 'host-1', 'a', 'x', 'r')"
    )  # fmt: skip

    assert {c["id"]: c["protected"] for c in await find(server)} == {number: True, other: False}
    assert (await server.get(f"/api/containers/{number}", server.user_token())).json()["protected"] is True


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("q=%00", "q"),
        ("q=", "q"),
        ("host=a%00", "host"),
        ("state=asleep", "state"),
        ("label=team", "label.0"),
        ("label==x", "label.0"),
        ("label=a=%00", "label.0"),
        ("&".join(["label=a=b"] * 21), "label"),
        ("after=!!!", "after"),
        ("after=" + base64.urlsafe_b64encode(b'["a", "b"]').decode(), "after"),
        ("after=" + base64.urlsafe_b64encode(b'["a", "\\u0000", "1"]').decode(), "after"),
        ("after=" + base64.urlsafe_b64encode(b'["a", "b", "9223372036854775808"]').decode(), "after"),
        ("after=" + base64.urlsafe_b64encode(b'["a", "\\ud800", "1"]').decode(), "after"),
        ("after=" + base64.urlsafe_b64encode(b"[" * 5000).decode(), "after"),
        ("limit=0", "limit"),
    ],
)
async def test_wrong_filters_are_named(server: RunningServer, query: str, field: str) -> None:
    """No filter that cannot be understood is passed over, and none is an error of the server."""
    answer = await server.get(f"/api/containers?{query}", server.user_token())

    assert answer.status_code == 422, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(("number", "status"), [("1", 404), ("9223372036854775807", 404), ("9223372036854775808", 422),
                                                ("-1", 422), ("x", 422), ("1" * 20, 422), ("%D9%A3", 422)])  # fmt: skip
async def test_ids_that_name_nothing(server: RunningServer, number: str, status: int) -> None:
    """A number that no container has is 404; what is no id is 422. Both as problems, on every route."""
    for path in ("", "/metrics", "/logs"):
        answer = await server.get(f"/api/containers/{number}{path}", server.user_token())
        assert answer.status_code == status, path
        assert answer.headers["content-type"] == "application/problem+json"
