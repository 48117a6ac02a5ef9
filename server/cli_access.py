"""`seatrial token` and `seatrial quota`: who may come in, and how much of it."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli import USAGE, with_connection

token_app = typer.Typer(no_args_is_help=True, help="Make keys, and mint tokens with a secret or a signing key.")
quota_app = typer.Typer(no_args_is_help=True, help="Limits of single organisations, in the database.")

Secret = Annotated[
    str | None, typer.Option(envvar="SEATRIAL_JWT_SECRET", help="HS256 key, at least 32 bytes. For development.")
]
SigningKey = Annotated[
    Path | None,
    typer.Option(
        envvar="SEATRIAL_JWT_SIGNING_KEY", help="PEM file of a private key to sign with, instead of the secret."
    ),
]
Kid = Annotated[
    str | None,
    typer.Option(envvar="SEATRIAL_JWT_SIGNING_KID", help="kid of the signing key; without it: its thumbprint."),
]
DatabaseUrl = Annotated[str, typer.Option(envvar="SEATRIAL_DATABASE_URL", help="postgresql://user:password@host/db")]
Organisation = Annotated[str, typer.Argument(help="Organisation.")]
Limit = Annotated[int | None, typer.Option(min=0, max=2**31 - 1)]


@token_app.command("agent")
def token_agent(
    host: Annotated[str, typer.Option(help="Host id: what the agent is.")],
    org: Annotated[str, typer.Option(help="Organisation.")] = "demo",
    days: Annotated[int, typer.Option(min=1, max=400, help="Life in days.")] = 365,
    secret: Secret = None,
    signing_key: SigningKey = None,
    kid: Kid = None,
) -> None:
    """A token for the agent of one host: Authorization: Bearer <it> on /ws/agent."""
    _mint(secret, signing_key, kid, lambda t: t.mint_agent(org=org, host=host, seconds=days * 86_400))


@token_app.command("user")
def token_user(
    user: Annotated[str, typer.Option(help="User id.")] = "developer",
    org: Annotated[str, typer.Option(help="Organisation.")] = "demo",
    role: Annotated[str, typer.Option(help="viewer, operator, admin or owner.")] = "viewer",
    hours: Annotated[int, typer.Option(min=1, max=24 * 30, help="Life in hours.")] = 12,
    secret: Secret = None,
    signing_key: SigningKey = None,
    kid: Kid = None,
) -> None:
    """A token for a user: Authorization: Bearer <it> on /api, or ?token=<it> on /ws/live."""
    _mint(secret, signing_key, kid, lambda t: t.mint_user(org=org, subject=user, role=role, seconds=hours * 3600))


@token_app.command("secret")
def token_secret() -> None:
    """A new random key for SEATRIAL_JWT_SECRET."""
    typer.echo(secrets.token_urlsafe(48))


@token_app.command("keys")
def token_keys(
    folder: Annotated[
        Path, typer.Argument(metavar="OUT_DIR", help="Folder for the two files; made if it is not there.")
    ],
    algorithm: Annotated[str, typer.Option(help="EdDSA (Ed25519) or ES256 (P-256).")] = "EdDSA",
    kid: Annotated[str | None, typer.Option(help="Name of the key; without it: its thumbprint.")] = None,
    audience: Annotated[
        str | None, typer.Option(help="agent or user: the only tokens that the key is good for; without it: both.")
    ] = None,
) -> None:
    """A key pair: signing-key.pem (keep it secret) and jwks.json, and the settings that name them."""
    from server.auth import keys

    try:
        if audience is not None and audience not in keys.AUDIENCES:
            raise ValueError(f"audience = {audience!r}: expected one of {', '.join(keys.AUDIENCES)}")
        key = keys.generate(algorithm)
        keys.write_pair(folder, key, kid=kid, audience=audience)
    except (ValueError, OSError) as error:
        typer.echo(f"token keys: {error}", err=True)
        raise typer.Exit(USAGE) from None
    place = folder.resolve()
    typer.echo(f"export SEATRIAL_JWT_KEYS={place / keys.JWKS_FILE}")
    typer.echo(f"export SEATRIAL_JWT_SIGNING_KEY={place / keys.PEM_FILE}")
    typer.echo(f"export SEATRIAL_JWT_SIGNING_KID={kid or keys.thumbprint(key)}")


def _mint(secret: str | None, signing_key: Path | None, kid: str | None, mint: Callable[[Any], str]) -> None:
    from server.auth.keys import KeyFileError, Keys, read_signing_key
    from server.auth.tokens import Tokens
    from server.settings import MIN_SECRET_BYTES

    try:
        if signing_key is not None:
            keys = Keys([], read_signing_key(signing_key, kid))
        elif secret is not None and len(secret.encode()) >= MIN_SECRET_BYTES:
            keys = Keys.of_secret(secret)
        elif secret is not None:
            raise ValueError(f"SEATRIAL_JWT_SECRET: expected at least {MIN_SECRET_BYTES} bytes")
        else:
            raise ValueError("expected --secret (SEATRIAL_JWT_SECRET) or --signing-key (SEATRIAL_JWT_SIGNING_KEY)")
        typer.echo(mint(Tokens(keys)))
    except (ValueError, KeyFileError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(USAGE) from None


@quota_app.command("set")
def quota_set(
    org: Organisation,
    database_url: DatabaseUrl,
    agents: Limit = None,
    containers: Limit = None,
    subscribers: Limit = None,
    batches_per_second: Limit = None,
) -> None:
    """Set limits of an organisation; those not given stay. Servers take them over within seconds."""
    given = {
        "agents": agents,
        "containers": containers,
        "subscribers": subscribers,
        "batches_per_second": batches_per_second,
    }
    if all(value is None for value in given.values()):
        typer.echo(
            f"quota set: expected at least one of {', '.join('--' + n.replace('_', '-') for n in given)}", err=True
        )
        raise typer.Exit(USAGE)

    async def work(connection: Any) -> None:
        from server.db.quotas import show, store

        await store(connection, org, given)
        typer.echo(await show(connection, org))

    with_connection(database_url, work)


@quota_app.command("clear")
def quota_clear(org: Organisation, database_url: DatabaseUrl) -> None:
    """Give an organisation the server's limits for organisations again."""

    async def work(connection: Any) -> None:
        from server.db.quotas import clear, show

        await clear(connection, org)
        typer.echo(await show(connection, org))

    with_connection(database_url, work)


@quota_app.command("show")
def quota_show(org: Organisation, database_url: DatabaseUrl) -> None:
    """The limits that an organisation has of its own, as JSON; null: the server's."""

    async def work(connection: Any) -> None:
        from server.db.quotas import show

        typer.echo(await show(connection, org))

    with_connection(database_url, work)
