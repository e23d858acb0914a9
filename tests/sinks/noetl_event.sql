-- The table of a NoETL server that `?mapping=noetl` writes: its columns, key, check, foreign key and partitions, and as
-- many indexes as it has, on the columns it is asked by.  Tests and benchmarks share this file.

CREATE SCHEMA noetl;

CREATE TABLE noetl.catalog (
    catalog_id bigint PRIMARY KEY,
    path text NOT NULL,
    version integer NOT NULL DEFAULT 1
);

CREATE TABLE noetl.event (
    execution_id bigint,
    catalog_id bigint NOT NULL REFERENCES noetl.catalog (catalog_id),
    event_id bigint,
    parent_event_id bigint,
    parent_execution_id bigint,
    created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    event_type varchar,
    node_id varchar,
    node_name varchar,
    node_type varchar,
    status varchar,
    duration double precision,
    context jsonb,
    result jsonb,
    meta jsonb,
    error text,
    current_index integer,
    current_item text,
    worker_id varchar,
    distributed_state varchar,
    context_key varchar,
    context_value text,
    trace_component jsonb,
    stack_trace text,
    tenant_id text NOT NULL DEFAULT 'default',
    organization_id text NOT NULL DEFAULT 'default',
    stream_id text,
    stream_version bigint,
    aggregate_id text,
    aggregate_type text,
    schema_name text,
    schema_version integer NOT NULL DEFAULT 1,
    event_time timestamptz NOT NULL DEFAULT now(),
    ingest_time timestamptz NOT NULL DEFAULT now(),
    producer text,
    causation_id text,
    correlation_id text,
    idempotency_key text,
    payload_ref jsonb,
    envelope_checksum text,
    prev_event_id bigint,
    command_id bigint,
    stage_id bigint,
    frame_id bigint,
    PRIMARY KEY (execution_id, event_id),
    CONSTRAINT event_result_shape CHECK (
        result IS NULL
        OR (
            jsonb_typeof(result) = 'object'
            AND jsonb_typeof(result -> 'status') = 'string'
            AND result - ARRAY['status', 'reference', 'context'] = '{}'::jsonb
            AND coalesce(jsonb_typeof(result -> 'reference'), 'object') = 'object'
            AND coalesce(jsonb_typeof(result -> 'context'), 'object') = 'object'
        )
    )
) PARTITION BY RANGE (execution_id);

CREATE TABLE noetl.event_default PARTITION OF noetl.event DEFAULT;
CREATE TABLE noetl.event_p1 PARTITION OF noetl.event FOR VALUES FROM (264905529753600000) TO (400000000000000000);
CREATE TABLE noetl.event_p2 PARTITION OF noetl.event FOR VALUES FROM (400000000000000000) TO (478775660589088800);
CREATE TABLE noetl.event_p3 PARTITION OF noetl.event FOR VALUES FROM (478775660589088800) TO (600000000000000000);

CREATE INDEX ON noetl.event (event_id);
CREATE INDEX ON noetl.event (catalog_id);
CREATE INDEX ON noetl.event (created_at);
CREATE INDEX ON noetl.event (event_type);
CREATE INDEX ON noetl.event (status);
CREATE INDEX ON noetl.event (node_name);
CREATE INDEX ON noetl.event (node_id);
CREATE INDEX ON noetl.event (parent_event_id);
CREATE INDEX ON noetl.event (parent_execution_id);
CREATE INDEX ON noetl.event (execution_id, event_type);
CREATE INDEX ON noetl.event (execution_id, status);
CREATE INDEX ON noetl.event (execution_id, created_at);
CREATE INDEX ON noetl.event (execution_id, node_name, event_type);
CREATE INDEX ON noetl.event (execution_id, event_id DESC);
CREATE INDEX ON noetl.event (event_type, created_at);
CREATE INDEX ON noetl.event (tenant_id, organization_id, created_at);
CREATE INDEX ON noetl.event (ingest_time);
CREATE INDEX ON noetl.event (execution_id, (meta ->> 'command_id')) WHERE meta ? 'command_id';
CREATE INDEX ON noetl.event (execution_id, (meta ->> 'loop_id')) WHERE meta ? 'loop_id';
CREATE INDEX ON noetl.event ((result ->> 'status'));
CREATE INDEX ON noetl.event (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX ON noetl.event (stream_id, stream_version) WHERE stream_id IS NOT NULL;
CREATE INDEX ON noetl.event (aggregate_type, aggregate_id) WHERE aggregate_id IS NOT NULL;
CREATE INDEX ON noetl.event (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE INDEX ON noetl.event (causation_id) WHERE causation_id IS NOT NULL;
CREATE INDEX ON noetl.event (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX ON noetl.event (prev_event_id) WHERE prev_event_id IS NOT NULL;
CREATE INDEX ON noetl.event (command_id) WHERE command_id IS NOT NULL;
CREATE INDEX ON noetl.event (stage_id) WHERE stage_id IS NOT NULL;
CREATE INDEX ON noetl.event (frame_id) WHERE frame_id IS NOT NULL;
