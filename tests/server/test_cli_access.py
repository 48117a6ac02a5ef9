"""`seatrial token` and `seatrial quota` as a user types them."""

import json
import stat
from pathlib import Path

import pytest

from server.auth.keys import Keys
from server.auth.tokens import Tokens
from tests.support.command import seatrial
from tests.support.server import SECRET


def exports(text: str) -> dict[str, str]:
    """The variables that `token keys` tells to export."""
    lines = [line.removeprefix("export ") for line in text.splitlines()]
    return dict(line.split("=", 1) for line in lines)


async def test_tokens_are_good_at_the_server(tmp_path: Path) -> None:
    """What `token` mints is what the server takes, with the organisation, host, user and role asked for."""
    tokens = Tokens(Keys.of_secret(SECRET))
    _, agent, _ = await seatrial(
        "token", "agent", "--host", "web-1", "--org", "acme", cwd=tmp_path, SEATRIAL_JWT_SECRET=SECRET
    )
    _, user, _ = await seatrial("token", "user", "--role", "admin", cwd=tmp_path, SEATRIAL_JWT_SECRET=SECRET)

    assert (tokens.agent(agent.strip()).host, tokens.agent(agent.strip()).org) == ("web-1", "acme")
    assert tokens.user(user.strip()).role == "admin"


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["agent", "--host", "../x"], {"SEATRIAL_JWT_SECRET": SECRET}, "host = '../x': expected"),
        (
            ["user", "--role", "king"], {"SEATRIAL_JWT_SECRET": SECRET},
            "role = 'king': expected one of viewer, operator, admin, owner",
        ),
        (["user"], {}, "expected --secret (SEATRIAL_JWT_SECRET) or --signing-key (SEATRIAL_JWT_SIGNING_KEY)"),
        (["user"], {"SEATRIAL_JWT_SECRET": "short"}, "SEATRIAL_JWT_SECRET: expected at least 32 bytes"),
        (["user", "--signing-key", "no.pem"], {}, "jwt_signing_key = no.pem: No such file or directory: expected"),
        (["keys", "out", "--algorithm", "HS256"], {}, "algorithm = 'HS256': expected one of EdDSA, ES256"),
        (["keys", "out", "--audience", "all"], {}, "audience = 'all': expected one of agent, user"),
    ],
)  # fmt: skip
async def test_impossible_tokens_are_refused(
    tmp_path: Path, arguments: list[str], variables: dict[str, str], words: str
) -> None:
    """A name, role, key or algorithm that no server would take is refused at once, and told what was expected."""
    code, _, err = await seatrial("token", *arguments, cwd=tmp_path, **variables)

    assert code == 2
    assert words in err
    assert "Traceback" not in err


def mode(path: Path) -> int:
    """Who may do what with a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256"])
async def test_a_key_pair_serves_at_once(tmp_path: Path, algorithm: str) -> None:
    """What `token keys` makes signs tokens that a server with its settings takes; the private key is its owner's alone."""
    _, out, _ = await seatrial("token", "keys", "pair", "--algorithm", algorithm, cwd=tmp_path)
    variables = exports(out)
    code, user, err = await seatrial("token", "user", "--role", "owner", cwd=tmp_path, **variables)
    again, _, refusal = await seatrial("token", "keys", "pair", cwd=tmp_path)
    private = Path(variables["SEATRIAL_JWT_SIGNING_KEY"])
    keys = Keys.of_files(Path(variables["SEATRIAL_JWT_KEYS"]), private, variables["SEATRIAL_JWT_SIGNING_KID"])

    assert code == 0, err
    assert Tokens(keys).user(user.strip()).role == "owner"
    assert mode(private) == 0o600
    assert (again, "exists already" in refusal) == (2, True)


async def test_quotas_are_set_shown_and_cleared(tmp_path: Path, empty_database: str) -> None:
    """`quota set` changes what is given and leaves the rest; `clear` gives the server's limits back."""
    variables = {"SEATRIAL_DATABASE_URL": empty_database}
    unmigrated = await seatrial("quota", "show", "acme", cwd=tmp_path, **variables)
    await seatrial("db", "migrate", cwd=tmp_path, **variables)
    nothing = await seatrial("quota", "set", "acme", cwd=tmp_path, **variables)
    negative = await seatrial("quota", "set", "acme", "--agents", "-1", cwd=tmp_path, **variables)
    await seatrial("quota", "set", "acme", "--agents", "5", "--batches-per-second", "9", cwd=tmp_path, **variables)
    await seatrial("quota", "set", "acme", "--agents", "6", cwd=tmp_path, **variables)
    shown = await seatrial("quota", "show", "acme", cwd=tmp_path, **variables)
    cleared = await seatrial("quota", "clear", "acme", cwd=tmp_path, **variables)

    assert (unmigrated[0], unmigrated[2].startswith("database: ")) == (3, True)
    assert (nothing[0], "expected at least one of --agents" in nothing[2]) == (2, True)
    assert negative[0] == 2
    assert json.loads(shown[1]) == {
        "org": "acme", "agents": 6, "containers": None, "subscribers": None, "batches_per_second": 9
    }  # fmt: skip
    assert json.loads(cleared[1])["agents"] is None
