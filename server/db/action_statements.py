# ruff: noqa: S608, S106 - statements are put together from our own names
"""What `server.db.actions` says to Postgres: each step of an action is one statement, a transaction of its own.

Every further trip would wait for a turn of the event loop, and while thousands of agents stream a turn is tens of
milliseconds.
"""

COLUMNS = (
    "action_id, org, host, container_id, kind, state, reason, detail, requested_by, role, token_id, token_issued_at,"
    " requested_at, expires_at, sent_at, finished_at"
)
_REVOKED = """
    EXISTS (SELECT FROM revocation v WHERE v.org = {org} AND (v.kind = 'token' AND v.subject = {token_id}
            OR v.kind = 'user' AND v.subject = {subject} AND v.revoked_at >= {issued_at}))
"""

_REVOKED_SINCE = _REVOKED.format(
    org="a.org", token_id="a.token_id", subject="a.requested_by", issued_at="a.token_issued_at"
)

DECIDE = f"""
    WITH facts AS (
        SELECT EXISTS (SELECT FROM action WHERE org = $1 AND requested_by = $2 AND idempotency_key = $3) AS known,
               {_REVOKED.format(org="$1", token_id="$4", subject="$2", issued_at="to_timestamp($5)")} AS revoked,
               (SELECT count(*) FROM action WHERE state IN ('pending', 'sent') AND org = $1) AS open
    ), verdict AS (
        SELECT known, CASE
            WHEN known THEN NULL
            WHEN revoked THEN 'revoked'
            WHEN $6::text IS NOT NULL THEN $6
            WHEN open >= $8 THEN 'too_many_actions'
        END AS code, CASE
            WHEN revoked THEN 'the user or the token was revoked'
            WHEN $6 IS NOT NULL THEN $7::text
            ELSE format('%s actions are open: expected at most %s', open, $8::bigint)
        END AS message FROM facts
    ), admitted AS (
        INSERT INTO action (action_id, org, host, container_id, kind, state, reason, requested_by, role, token_id,
                            token_issued_at, requested_at, expires_at, idempotency_key, request_digest)
        SELECT $9, $1, $10, $11::bigint, $12, 'pending', $13, $2, $14, $4, to_timestamp($5), $15::timestamptz,
               $16::timestamptz, $3, $17::bytea
        FROM verdict WHERE NOT known AND code IS NULL
        ON CONFLICT (org, requested_by, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
        RETURNING {COLUMNS}
    ), audited AS (
        INSERT INTO audit (org, actor, role, action, target, reason, result, detail, action_id, finished_at)
        SELECT $1, $2, $14, 'container.' || $12::text, 'container:' || $11::text, $13,
               CASE WHEN code IS NULL THEN 'pending' ELSE 'denied' END, coalesce(code || ': ' || message, ''), action_id,
               CASE WHEN code IS NOT NULL THEN clock_timestamp() END
        FROM verdict LEFT JOIN admitted ON true WHERE code IS NOT NULL OR action_id IS NOT NULL
    )
    SELECT code, message, admitted.* FROM verdict LEFT JOIN admitted ON true
"""
"""Neither a code nor an action comes of it if this user's Idempotency-Key is known. That two who ask at once may both find
room is well: the bound is for memory, not for money."""

_FOLLOWED = f"""
    ), followed AS (
        UPDATE audit SET result = {{result}}, detail = changed.detail, finished_at = changed.finished_at
        FROM changed WHERE audit.action_id = changed.action_id
    )
    SELECT {COLUMNS} FROM changed
"""
"""The one audit row of each action says how it stands."""
_AS_ITS_STATE = _FOLLOWED.format(result="changed.state")
_AS_DENIED = _FOLLOWED.format(result="'denied'")

MARK_SENT = f"""
    WITH waiting AS (
        SELECT action_id, {_REVOKED_SINCE} AS revoked
        FROM action a WHERE action_id = ANY($1) AND state = 'pending' AND expires_at > $2 ORDER BY action_id FOR UPDATE OF a
    ), changed AS (
        UPDATE action a SET
            state = CASE WHEN revoked THEN 'failed' ELSE 'sent' END,
            sent_at = CASE WHEN NOT revoked THEN $2 END,
            finished_at = CASE WHEN revoked THEN $2 END,
            detail = CASE WHEN revoked THEN 'denied: the user was revoked before it was sent' ELSE '' END
        FROM waiting WHERE a.action_id = waiting.action_id
        RETURNING a.*
    {_FOLLOWED.format(result="CASE changed.state WHEN 'failed' THEN 'denied' ELSE changed.state END")}
"""

MARK_UNSENT = f"""
    WITH changed AS (
        UPDATE action SET state = 'pending', sent_at = NULL WHERE action_id = ANY($1) AND state = 'sent'
        RETURNING *
    {_AS_ITS_STATE}
"""

DENY = f"""
    WITH changed AS (
        UPDATE action SET state = 'failed', finished_at = $2, detail = $3 WHERE action_id = ANY($1) AND state = 'pending'
        RETURNING *
    {_AS_DENIED}
"""

EXPIRE = f"""
    WITH changed AS (
        UPDATE action SET
            state = CASE state WHEN 'pending' THEN 'expired' ELSE 'unknown' END,
            finished_at = $1,
            detail = CASE state WHEN 'pending' THEN 'the agent did not come in time'
                                ELSE 'sent, but the agent did not report in time' END
        WHERE state = 'pending' AND expires_at <= $1 OR state = 'sent' AND expires_at <= $2
        RETURNING *
    {_AS_ITS_STATE}
"""

TAKE_RESULTS = f"""
    WITH reported AS (
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[])
                      AS r(action_id, org, host, outcome, finished_at, detail)
    ), repeated AS (
        SELECT count(*) AS repeated FROM action a JOIN reported r USING (action_id, org, host)
        WHERE a.state IN ('succeeded', 'failed', 'expired') AND a.sent_at IS NOT NULL
    ), changed AS (
        UPDATE action a SET state = r.outcome, finished_at = r.finished_at, detail = r.detail FROM reported r
        WHERE a.action_id = r.action_id AND a.org = r.org AND a.host = r.host AND a.state IN ('sent', 'unknown')
        RETURNING a.*
    ), followed AS (
        UPDATE audit SET result = changed.state, detail = changed.detail, finished_at = changed.finished_at
        FROM changed WHERE audit.action_id = changed.action_id
    )
    SELECT repeated, {COLUMNS} FROM repeated LEFT JOIN changed ON true
"""
"""One row at least. All in one statement: what is committed must be told, and a second trip could fail."""

EARLIER = f"""
    SELECT {COLUMNS}, request_digest FROM action WHERE org = $1 AND requested_by = $2 AND idempotency_key = $3
"""
