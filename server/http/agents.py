"""Enrolment: `/api/hosts` invites and revokes, `/api/agents` turns an invitation into an agent's token and renews that."""

import shlex
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from server.auth.enrolment import Credentials, Enrolment
from server.auth.principal import Agent, User
from server.auth.revocations import Revocations
from server.auth.tokens import TokenError, Tokens, bearer
from server.http.problems import PROBLEM_RESPONSES, CurrentUser, Refused
from server.protocol.canonical import clean_text
from server.settings import Settings, is_origin

HostName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="The host's id, which its agent's token will carry.",
        examples=["host-1"],
    ),
]


def _says_something(value: str) -> str:
    if not value.strip():
        raise ValueError("expected a reason, found only blanks")
    return clean_text(value)


Reason = Annotated[
    str,
    Field(min_length=1, max_length=500, description="For the audit log.", examples=["left the team"]),
    AfterValidator(_says_something),
]


class EnrolBody(BaseModel):
    """Which host shall be enrolled."""

    model_config = ConfigDict(extra="forbid")

    host: HostName
    reason: Annotated[
        str,
        Field(max_length=500, description="For the audit log.", examples=["new web node"]),
        AfterValidator(clean_text),
    ] = ""
    expires_in_seconds: Annotated[
        int | None,
        Field(
            ge=60,
            le=7 * 86_400,
            description="Life of the unused token. Left out: the server's setting.",
            examples=[3600],
        ),
    ] = None


class EnrolmentView(BaseModel):
    """An invitation. The token is shown this once. Times in Unix microseconds."""

    host: Annotated[str, Field(examples=["host-1"])]
    enrolment_token: Annotated[str, Field(description="Good once, for POST /api/agents/enroll.")]
    expires_at: int
    install_command: Annotated[str, Field(description="Starts the agent on the host.")]


class RevokeBody(BaseModel):
    """Why."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason


class HostRevoked(BaseModel):
    """What was issued up to this moment is worth nothing any more. Unix microseconds."""

    revoked_at: int


class ExchangeBody(BaseModel):
    """An invitation."""

    model_config = ConfigDict(extra="forbid")

    token: Annotated[str, Field(min_length=1, max_length=200, description="The enrolment token.")]


class CredentialsView(BaseModel):
    """An agent's token, for `Authorization: Bearer` on /ws/agent. Times in Unix microseconds."""

    token: str
    host: Annotated[str, Field(examples=["host-1"])]
    org: Annotated[str, Field(examples=["demo"])]
    expires_at: int


class HostOperations(Protocol):
    """What is done with hosts. All raise DatabaseDownError; those of a user raise DeniedError."""

    async def enrol(self, user: User, host: str, *, reason: str, seconds: int) -> Enrolment:
        """Invite the agent of a host."""

    async def exchange(self, token: str) -> Credentials | None:
        """A host's credentials for its invitation, once."""

    async def renew(self, agent: Agent) -> Credentials | None:
        """New credentials for an agent; None: it was revoked."""

    async def revoke(self, user: User, host: str, *, reason: str) -> int | None:
        """End every token of a host up to now; None: there is no such host."""


class CurrentAgent:
    """A dependency: the agent of the bearer token.

    Raises:
        TokenError: there is none, or it is not good (any more); answered 401.
    """

    def __init__(self, tokens: Tokens, revocations: Revocations) -> None:
        self._tokens = tokens
        self._revocations = revocations

    async def __call__(self, request: Request) -> Agent:
        """The agent who asks."""
        agent = self._tokens.agent(bearer(request.headers.get("authorization")))
        if self._revocations.revoked(agent):
            raise _agent_revoked()
        return agent


def router(
    hosts: HostOperations, settings: Settings, current_user: CurrentUser, current_agent: CurrentAgent
) -> APIRouter:
    """The four routes."""
    routes = APIRouter(prefix="/api", tags=["enrolment"], responses=PROBLEM_RESPONSES)

    @routes.post("/hosts", status_code=201, summary="Invite a host's agent (admin)")
    async def enrol(
        body: EnrolBody, request: Request, user: Annotated[User, Depends(current_user)]
    ) -> EnrolmentView:  # fmt: skip
        url = settings.public_url or _dialled(request)
        seconds = body.expires_in_seconds or settings.enrolment_seconds
        found = await hosts.enrol(user, body.host, reason=body.reason, seconds=seconds)
        return EnrolmentView(
            host=found.host, enrolment_token=found.token, expires_at=found.expires_at,
            install_command=install_command(url, found.token, settings.agent_image),
        )  # fmt: skip

    @routes.post("/hosts/{host}/revoke", summary="End every token of a host; it may be enrolled again (admin)")
    async def revoke(host: HostName, body: RevokeBody, user: Annotated[User, Depends(current_user)]) -> HostRevoked:
        moment = await hosts.revoke(user, host, reason=body.reason)
        if moment is None:
            raise Refused(404, "not_found", f"host {host}: there is none in your organisation")
        return HostRevoked(revoked_at=moment)

    @routes.post("/agents/enroll", status_code=201, summary="An agent's token for its enrolment token")
    async def enroll(body: ExchangeBody) -> CredentialsView:
        found = await hosts.exchange(body.token)
        if found is None:
            message = "token: expected an enrolment token that was not used, replaced or left until it expired"
            raise Refused(401, "invalid_enrolment_token", message)
        return _credentials(found)

    @routes.post("/agents/renew", status_code=201, summary="A new token for an agent whose token is still good")
    async def renew(agent: Annotated[Agent, Depends(current_agent)]) -> CredentialsView:
        found = await hosts.renew(agent)
        if found is None:
            raise _agent_revoked()
        return _credentials(found)

    return routes


def install_command(url: str, token: str, image: str) -> str:
    """A line that starts the agent on a Docker host, safe to paste into a shell."""
    return shlex.join(
        [
            "docker", "run", "--detach", "--name", "seatrial-agent", "--restart", "unless-stopped",
            "--volume", "/var/run/docker.sock:/var/run/docker.sock", "--env", f"SEATRIAL_URL={url}",
            "--env", f"SEATRIAL_ENROLMENT_TOKEN={token}", image,
        ]
    )  # fmt: skip


def _dialled(request: Request) -> str:
    """Where the request was sent, if public_url does not say where we are. Shown to who asked, and decides nothing."""
    host = request.headers.get("host", "")
    url = f"{request.url.scheme}://{host}"
    if not is_origin(url):
        raise Refused(400, "bad_host", f"header Host = {host!r}: expected host[:port]")
    return url


def _agent_revoked() -> TokenError:
    return TokenError("agent_revoked", "the host or its token was revoked; enrol it again")


def _credentials(found: Credentials) -> CredentialsView:
    return CredentialsView(token=found.token, host=found.host, org=found.org, expires_at=found.expires_at)
