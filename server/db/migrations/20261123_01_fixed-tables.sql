-- Hosts with the progress of their newest epoch, containers, live tickets, and which storage strategy owns the rows.
-- depends:

-- migrate: apply

CREATE TABLE host (
    org text NOT NULL,
    host text NOT NULL,
    machine_id text NOT NULL,
    hostname text NOT NULL,
    agent_version text NOT NULL,
    cores integer NOT NULL,
    epoch uuid NOT NULL,
    acked_seq bigint NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL,
    PRIMARY KEY (org, host)
);

CREATE TABLE container (
    container_id bigint PRIMARY KEY,
    org text NOT NULL,
    host text NOT NULL,
    docker_id text NOT NULL,
    name text NOT NULL,
    series text NOT NULL,
    image text NOT NULL,
    state text NOT NULL,
    labels jsonb NOT NULL,
    memory_limit_bytes bigint,
    protected boolean NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT now(),
    removed_at timestamptz
);

CREATE INDEX container_by_host ON container (org, host);

CREATE INDEX container_removed ON container (removed_at) WHERE removed_at IS NOT NULL;

CREATE TABLE live_ticket (
    digest bytea PRIMARY KEY,
    org text NOT NULL,
    subject text NOT NULL,
    role text NOT NULL,
    origin text,
    session_expires_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE INDEX live_ticket_expiry ON live_ticket (expires_at);

CREATE TABLE storage_strategy (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    name text NOT NULL,
    version integer NOT NULL
);

-- migrate: rollback

DROP TABLE storage_strategy;
DROP TABLE live_ticket;
DROP TABLE container;
DROP TABLE host;
