-- Actions, audit, and who may do what: revocations, enrolment, protection, quotas; counters of log bytes; scoped tickets.
-- depends: 20261123_01_fixed-tables

-- migrate: apply

CREATE TABLE action (
    action_id text PRIMARY KEY,
    org text NOT NULL,
    host text NOT NULL,
    container_id bigint NOT NULL,
    kind text NOT NULL CHECK (kind IN ('start', 'stop', 'restart')),
    state text NOT NULL CHECK (state IN ('pending', 'sent', 'succeeded', 'failed', 'expired', 'unknown')),
    reason text NOT NULL,
    detail text NOT NULL DEFAULT '',
    requested_by text NOT NULL,
    role text NOT NULL,
    token_id text NOT NULL,
    token_issued_at timestamptz NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    sent_at timestamptz,
    finished_at timestamptz,
    idempotency_key text,
    request_digest bytea NOT NULL
);

CREATE UNIQUE INDEX action_idempotency ON action (org, requested_by, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE INDEX action_by_time ON action (org, requested_at, action_id);

CREATE INDEX action_open ON action (expires_at) WHERE state IN ('pending', 'sent');

CREATE TABLE audit (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    role text NOT NULL,
    action text NOT NULL,
    target text NOT NULL,
    reason text NOT NULL,
    result text NOT NULL,
    detail text NOT NULL DEFAULT '',
    action_id text,
    finished_at timestamptz
);

CREATE INDEX audit_by_org ON audit (org, audit_id);

CREATE INDEX audit_by_time ON audit (at);

CREATE INDEX action_ended ON action (finished_at) WHERE finished_at IS NOT NULL;

CREATE UNIQUE INDEX audit_of_action ON audit (action_id) WHERE action_id IS NOT NULL;

-- What was issued up to `revoked_at` is worth nothing any more; a token issued later is good again.
CREATE TABLE revocation (
    org text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('user', 'token', 'host')),
    subject text NOT NULL,
    revoked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_by text NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (org, kind, subject)
);

CREATE TABLE enrolment (
    digest bytea PRIMARY KEY,
    org text NOT NULL,
    host text NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
);

CREATE INDEX enrolment_expiry ON enrolment (expires_at);

-- By series, so that a re-created container stays protected.
CREATE TABLE protection (
    org text NOT NULL,
    host text NOT NULL,
    series text NOT NULL,
    protected_by text NOT NULL,
    protected_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason text NOT NULL,
    PRIMARY KEY (org, host, series)
);

-- An organisation's own limits; NULL: the server's default for organisations.
CREATE TABLE quota (
    org text PRIMARY KEY,
    agents integer CHECK (agents >= 0),
    containers integer CHECK (containers >= 0),
    subscribers integer CHECK (subscribers >= 0),
    batches_per_second integer CHECK (batches_per_second >= 0)
);

-- Log bytes of a container up to a time: the counters that bound it, at most a few rows each.
CREATE TABLE log_segment (
    container_id bigint NOT NULL,
    until timestamptz NOT NULL,
    bytes bigint NOT NULL,
    PRIMARY KEY (container_id, until)
);

CREATE INDEX log_segment_until ON log_segment (until);

CREATE INDEX revocation_by_time ON revocation (revoked_at);

ALTER TABLE live_ticket ADD COLUMN topics text[];

ALTER TABLE live_ticket ADD COLUMN token_id text NOT NULL DEFAULT '';

ALTER TABLE live_ticket ADD COLUMN token_issued_at timestamptz NOT NULL DEFAULT now();

CREATE INDEX container_by_series ON container (org, host, series);

CREATE INDEX host_last_seen ON host (last_seen);

-- migrate: rollback

DROP INDEX host_last_seen;
DROP INDEX container_by_series;
ALTER TABLE live_ticket DROP COLUMN token_issued_at;
ALTER TABLE live_ticket DROP COLUMN token_id;
ALTER TABLE live_ticket DROP COLUMN topics;
DROP TABLE log_segment;
DROP TABLE quota;
DROP TABLE protection;
DROP TABLE enrolment;
DROP TABLE revocation;
DROP TABLE audit;
DROP TABLE action;
