-- The one-minute rollup of samples, what of it is to be computed, and how far it got.
-- depends: 20261123_02_product

-- migrate: apply

-- What the samples of a container in one minute say. A rise is what a counter rose by from sample to sample within the minute,
-- and `_us` the time that took; with the first and last sample the rise from one minute to the next follows.
CREATE TABLE metric_minute (
    container_id bigint NOT NULL,
    minute timestamptz NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    first_rx bigint,
    first_tx bigint,
    last_rx bigint,
    last_tx bigint,
    memory_max bigint,
    cpu_sum double precision,
    cpu_max real,
    cpu_count integer NOT NULL,
    memory_count integer NOT NULL,
    samples integer NOT NULL,
    rx_us integer,
    tx_us integer,
    memory_sum numeric,
    rx_rise numeric,
    tx_rise numeric,
    PRIMARY KEY (container_id, minute)
) WITH (
    -- Room in a page for a minute that is computed again.
    fillfactor = 90,
    -- As for samples under `plain` (docs/storage.md): space must come back before the next rows need it.
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_cost_limit = 2000,
    autovacuum_vacuum_insert_threshold = -1
);

CREATE INDEX metric_minute_by_time ON metric_minute (minute);

-- A minute of these containers got samples that are not in the rollup. A flush adds rows, none is ever changed: what is read
-- and computed is deleted by its id, what comes meanwhile has another one.
CREATE TABLE dirty_minute (
    minute timestamptz NOT NULL,
    mark_id bigint GENERATED ALWAYS AS IDENTITY,
    containers bigint[] NOT NULL,
    PRIMARY KEY (minute, mark_id)
);

-- Minutes from `rolled_from` up to `rolled_until` are computed; NULL: no server ever marked one.
-- Before `pruned_until` samples may be missing.
CREATE TABLE rollup_progress (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    rolled_from timestamptz,
    rolled_until timestamptz,
    pruned_until timestamptz NOT NULL DEFAULT 'epoch'
);

INSERT INTO rollup_progress DEFAULT VALUES;

-- migrate: rollback

DROP TABLE rollup_progress;
DROP TABLE dirty_minute;
DROP TABLE metric_minute;
