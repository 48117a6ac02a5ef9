"""Everything that can be set, once, in one place: by `SEATRIAL_*` variables or by the flags of `seatrial serve`.

Built once at the top and handed down; nothing else reads the environment. `docs/settings.md` lists every field, and a test
holds it to that.
"""

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.token_life import MAX_LIFE_SECONDS

MIN_SECRET_BYTES = 32
"""HS256 wants a key at least as long as its hash: RFC 7518, section 3.2."""

_ORIGIN = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


class Settings(BaseSettings):
    """The server's settings. Sizes in bytes, times in seconds, as their names say."""

    model_config = SettingsConfigDict(
        env_prefix="SEATRIAL_", extra="ignore", frozen=True, hide_input_in_errors=True, allow_inf_nan=False
    )

    database_url: Annotated[
        SecretStr, Field(description="Postgres 15 to 18, as postgresql://user:password@host:port/database.")
    ]
    jwt_secret: Annotated[
        SecretStr | None,
        Field(description="HS256 key for agents' and users' tokens, at least 32 bytes. For development."),
    ] = None
    jwt_keys: Annotated[
        Path | None,
        Field(
            description="JWKS file of the public keys that tokens are checked with. For production; docs/security.md."
        ),
    ] = None
    jwt_signing_key: Annotated[
        Path | None, Field(description="PEM file of the private key that signs agents' tokens; belongs to jwt_keys.")
    ] = None
    jwt_signing_kid: Annotated[
        str | None, Field(min_length=1, description="kid of the signing key's public half in jwt_keys.")
    ] = None
    agent_token_seconds: Annotated[
        int,
        Field(ge=60, le=MAX_LIFE_SECONDS, description="Life of the tokens that enrolment and renewal give to agents."),
    ] = 365 * 86_400
    enrolment_seconds: Annotated[
        int, Field(ge=60, le=7 * 86_400, description="Life of an unused enrolment token, if its request names none.")
    ] = 3_600
    public_url: Annotated[
        str | None,
        Field(
            description="Where agents and browsers reach the server, as https://host[:port]; its origin may open /ws/live."
        ),
    ] = None
    agent_image: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-zA-Z0-9._/:@-]*$", max_length=255, description="Image that the install command runs."
        ),
    ] = "seatrial-agent"
    host: Annotated[str, Field(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")] = 8000
    allowed_origins: Annotated[
        tuple[str, ...],
        Field(
            description='Origins of web apps that may open /ws/live beside the server\'s own, as JSON: ["https://a.b"].'
        ),
    ] = ()
    accept_test_load: Annotated[
        bool,
        Field(
            description="Whether `seatrial run --target` may load this server; told to everybody who asks. Off in production."
        ),
    ] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="Least severe log lines to write.")
    ] = "info"
    log_format: Annotated[Literal["json", "console"], Field(description="Log lines as JSON, or for people.")] = "json"

    storage: Annotated[
        Literal["plain", "partitioned"], Field(description="How samples and log lines are stored; docs/storage.md.")
    ] = "plain"
    retention_seconds: Annotated[float, Field(ge=1, description="Age at which samples and log lines are removed.")] = (
        86_400.0
    )
    rollup_retention_seconds: Annotated[
        float | None,
        Field(
            ge=1, description="Age at which minutes of the rollup are removed; at least, and by default, the retention."
        ),
    ] = None
    rollup_grace_seconds: Annotated[
        float, Field(ge=0, description="How long after its end a minute waits for late samples before it is computed.")
    ] = 15.0
    rollup_duty: Annotated[
        float, Field(gt=0, le=1, description="Share of time that computing the rollup may take.")
    ] = 0.2
    log_bytes_per_container: Annotated[
        int,
        Field(
            ge=64 * 1024, description="Bytes of log that a container may have, 150 a line counted in; the oldest go."
        ),
    ] = 256 * 1024 * 1024
    action_retention_seconds: Annotated[
        float, Field(ge=3600, description="Age at which actions that ended are removed; open ones stay.")
    ] = 30 * 86_400.0
    audit_retention_seconds: Annotated[
        float, Field(ge=3600, description="Age at which rows of the audit log are removed.")
    ] = 400 * 86_400.0
    host_retention_seconds: Annotated[
        float,
        Field(
            ge=3600,
            description="A host not seen for so long is removed, with its containers and protections; at least the retention.",
        ),
    ] = 90 * 86_400.0
    prune_interval_seconds: Annotated[
        float, Field(gt=0, description="Pause between two removals; must be shorter than the retention.")
    ] = 60.0
    prune_duty: Annotated[
        float, Field(gt=0, le=1, description="Share of time that removing samples and log lines may take.")
    ] = 0.5
    lanes: Annotated[int, Field(ge=1, le=64, description="Writer connections; an agent keeps to one for life.")] = 2
    flush_seconds: Annotated[float, Field(gt=0, le=10, description="Longest wait of a row for its COPY to begin.")] = (
        0.1
    )
    flush_bytes: Annotated[
        int, Field(ge=1024, description="Packed rows of a lane that start its COPY before the time is up.")
    ] = 4 * 1024 * 1024
    pool_size: Annotated[
        int, Field(ge=1, le=100, description="Database connections for everything but the lanes and reads.")
    ] = 10
    read_pool_size: Annotated[
        int,
        Field(
            ge=1, le=100, description="Database connections for what users read; one organisation gets half of them."
        ),
    ] = 4
    read_timeout_seconds: Annotated[
        float, Field(gt=0, description="Deadline of a statement that reads for a user: 503 after it.")
    ] = 10.0
    database_wait_seconds: Annotated[
        float, Field(ge=0, description="How long a start waits for the database before it gives up.")
    ] = 60.0
    statement_timeout_seconds: Annotated[
        float, Field(gt=0, description="Deadline of a single statement; a flush past it is retried.")
    ] = 60.0

    max_agents: Annotated[int, Field(ge=1, description="Agents connected at once; more are refused with 503.")] = 10_000
    max_subscribers: Annotated[
        int, Field(ge=1, description="Live sockets open at once; more are refused with 503.")
    ] = 2_000
    max_downloads: Annotated[
        int, Field(ge=1, description="Log downloads that run at once; more are refused with 429.")
    ] = 16
    max_containers: Annotated[int, Field(ge=1, description="Containers that one host may declare.")] = 1_000
    org_max_agents: Annotated[
        int, Field(ge=0, description="Agents of one organisation connected at once; more are refused with 429.")
    ] = 10_000
    org_max_containers: Annotated[
        int, Field(ge=0, description="Containers of one organisation; those over it are left out and named.")
    ] = 200_000
    org_max_subscribers: Annotated[
        int, Field(ge=0, description="Live sockets of one organisation; more are closed with 4504.")
    ] = 1_000
    org_writes_per_second: Annotated[
        int,
        Field(ge=1, description="Requests of an organisation's users a second that change something; 429 above."),
    ] = 50
    org_max_revocations: Annotated[
        int, Field(ge=1, description="Revocations that an organisation may have in force; 429 above.")
    ] = 10_000
    org_max_downloads: Annotated[
        int, Field(ge=0, description="Log downloads of one organisation at once; more are refused with 429.")
    ] = 8
    org_batches_per_second: Annotated[
        int, Field(ge=0, description="Batches of one organisation acknowledged in a second; past it its acks wait.")
    ] = 20_000
    org_budget_share: Annotated[
        float, Field(gt=0, le=1, description="Share of ingest_budget_bytes that one organisation may take.")
    ] = 0.5
    max_subscriptions: Annotated[int, Field(ge=1, description="Topics that one live socket may watch.")] = 200
    frame_bytes: Annotated[
        int, Field(ge=4096, le=16 * 1024 * 1024, description="Largest frame that either socket takes; 1009 above.")
    ] = 1024 * 1024
    labels_bytes: Annotated[int, Field(ge=0, description="Label bytes of one container.")] = 16 * 1024
    log_text_bytes: Annotated[
        int, Field(ge=64, le=256 * 1024, description="Longest log line; the rest is cut off and marked.")
    ] = 16 * 1024
    ingest_budget_bytes: Annotated[
        int, Field(ge=1024 * 1024, description="Memory for rows received and not yet committed, all agents together.")
    ] = 256 * 1024 * 1024
    window_batches: Annotated[
        int, Field(ge=1, description="Batches that an agent may have on its way unacknowledged.")
    ] = 64
    window_bytes: Annotated[
        int, Field(ge=1024, description="Frame bytes that an agent may have on its way unacknowledged.")
    ] = 1024 * 1024
    outbox_bytes: Annotated[
        int,
        Field(
            ge=4096,
            description="Frames waiting for one slow subscriber; log lines past it become a gap. As much again of what must"
            " not be lost; past that it is closed with 4008.",
        ),
    ] = 1024 * 1024
    outbox_seconds: Annotated[
        float, Field(gt=0, description="How long a subscriber may stand still before it is closed with 4008.")
    ] = 5.0

    heartbeat_seconds: Annotated[
        int, Field(ge=1, description="Agents' heartbeat interval; silent for 3 of them means offline.")
    ] = 15
    hello_timeout_seconds: Annotated[float, Field(gt=0, description="Time for an agent's hello; 4002 after it.")] = 10.0
    offline_after_seconds: Annotated[
        float, Field(ge=0, description="Grace for a closed socket to come back before its host is shown offline.")
    ] = 5.0
    ping_interval_seconds: Annotated[float, Field(gt=0, description="Pause between WebSocket pings.")] = 15.0
    ping_timeout_seconds: Annotated[float, Field(gt=0, description="Time for a pong; 1011 and abort after it.")] = 10.0
    future_seconds: Annotated[
        float, Field(gt=0, description="How far ahead of the server's clock a row's time may lie.")
    ] = 60.0
    action_grace_seconds: Annotated[
        float,
        Field(ge=0, description="After an action's expiry: time for its result to come before it is called unknown."),
    ] = 30.0
    max_open_actions: Annotated[
        int, Field(ge=1, description="Actions of one organisation that may be open at once; more are refused with 429.")
    ] = 1_000
    ticket_seconds: Annotated[int, Field(ge=1, le=30, description="Life of an unused live ticket.")] = 30
    drain_seconds: Annotated[float, Field(gt=0, le=300, description="Deadline of the last flush after SIGTERM.")] = 20.0
    reconnects_per_second: Annotated[
        int,
        Field(ge=1, description="Agents admitted in a second; at this rate they are asked to come back after a drain."),
    ] = 400

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr) -> SecretStr:
        if urlsplit(value.get_secret_value()).scheme not in {"postgresql", "postgres"}:
            raise ValueError("expected postgresql://user:password@host:port/database")
        return value

    @field_validator("jwt_secret")
    @classmethod
    def _is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and (found := len(value.get_secret_value().encode())) < MIN_SECRET_BYTES:
            raise ValueError(f"expected at least {MIN_SECRET_BYTES} bytes, found {found}")
        return value

    @field_validator("public_url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None and not is_origin(value):
            raise ValueError("expected http[s]://host[:port] without a path")
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not is_origin(origin):
                raise ValueError(f"{origin!r}: expected scheme://host[:port] without a path or wildcard")
        return value

    @model_validator(mode="after")
    def _has_keys(self) -> "Settings":
        files = (self.jwt_keys, self.jwt_signing_key, self.jwt_signing_kid)
        if self.jwt_secret is not None and any(files):
            raise ValueError("jwt_secret and jwt_keys: expected only one of them: a secret (development) or keys")
        if self.jwt_secret is None and not any(files):
            raise ValueError(
                "jwt_secret, jwt_keys: missing; set SEATRIAL_JWT_SECRET (development), or SEATRIAL_JWT_KEYS with"
                " SEATRIAL_JWT_SIGNING_KEY and SEATRIAL_JWT_SIGNING_KID (production)"
            )
        if any(files) and not all(files):
            names = ("jwt_keys", "jwt_signing_key", "jwt_signing_kid")
            missing = [name for name, value in zip(names, files, strict=True) if not value]
            raise ValueError(f"{', '.join(missing)}: missing: expected all of {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        if self.prune_interval_seconds >= self.retention_seconds:
            raise ValueError(
                f"prune_interval_seconds = {self.prune_interval_seconds:g}: expected less than"
                f" retention_seconds = {self.retention_seconds:g}"
            )
        if self.rollup_seconds < self.retention_seconds:
            raise ValueError(
                f"rollup_retention_seconds = {self.rollup_seconds:g}: expected at least"
                f" retention_seconds = {self.retention_seconds:g}"
            )
        if self.host_retention_seconds < self.retention_seconds:
            raise ValueError(
                f"host_retention_seconds = {self.host_retention_seconds:g}: expected at least"
                f" retention_seconds = {self.retention_seconds:g}"
            )
        return self

    @property
    def rollup_seconds(self) -> float:
        """How old a minute of the rollup becomes."""
        return self.retention_seconds if self.rollup_retention_seconds is None else self.rollup_retention_seconds

    @property
    def accept_past_seconds(self) -> float:
        """How old a row may be: the window, and one interval so that no row in it is refused (DESIGN, section 4)."""
        return self.retention_seconds - self.prune_interval_seconds


def is_origin(text: str) -> bool:
    """Whether `text` is an origin, as a browser writes it: scheme://host[:port], nothing else."""
    return _ORIGIN.fullmatch(text) is not None
