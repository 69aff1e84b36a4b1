-- The log, as the recorder copies it. Times are microseconds since the Unix epoch; `seq` is the JetStream sequence,
-- `incarnation` counts the lives of a stream: one that came back shorter begins a new one, so that a sequence used
-- twice names two things.

-- How far a copy has got. `writer` is the process that may move it; `hash` is the digest of the message at `seq`.
CREATE TABLE cursor (
    name text PRIMARY KEY,
    incarnation integer NOT NULL,
    seq bigint NOT NULL,
    hash text NOT NULL,
    writer text NOT NULL
);

-- Where each shard's hash chain has got.
CREATE TABLE shard_head (
    shard integer PRIMARY KEY,
    incarnation integer NOT NULL,
    seq bigint NOT NULL,
    hash text NOT NULL
);

-- Messages that a stream no longer had when they should have been copied.
CREATE TABLE gap (
    stream text NOT NULL,
    incarnation integer NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    PRIMARY KEY (stream, incarnation, first)
);

-- Stream EV: one row per envelope, one per fact in it. With the facts in order of `idx` the envelope's bytes, and so
-- its hash, can be made again.
CREATE TABLE commit (
    incarnation integer NOT NULL,
    seq bigint NOT NULL,
    shard integer NOT NULL,
    term integer NOT NULL,
    writer text NOT NULL,
    commit_id text NOT NULL UNIQUE,
    code text NOT NULL,
    time bigint NOT NULL,
    previous text NOT NULL,
    hash text NOT NULL,
    PRIMARY KEY (incarnation, seq)
);

-- Not partitioned: a unique key over the whole table could not be kept then, and it is the second line of defence
-- against two owners of one entity.
CREATE TABLE event (
    incarnation integer NOT NULL,
    seq bigint NOT NULL,
    idx integer NOT NULL,
    tenant text NOT NULL,
    thread text NOT NULL,
    kind text NOT NULL,
    entity text NOT NULL,
    version integer NOT NULL,
    type text NOT NULL,
    cause text NOT NULL,
    time bigint NOT NULL,
    traceparent text NOT NULL,
    key_id text,
    payload bytea NOT NULL,
    PRIMARY KEY (incarnation, seq, idx),
    UNIQUE (tenant, kind, entity, thread, version)
);
CREATE INDEX event_thread ON event (tenant, thread, incarnation, seq, idx);

-- Stream TRACE: scheduler steps (`producer` is the epoch, `n` the step) and delta frames (`producer` is the effect,
-- `n` the offset). `time` is when the server stored it.
CREATE TABLE record (
    incarnation integer NOT NULL,
    seq bigint NOT NULL,
    tenant text NOT NULL,
    subject text NOT NULL,
    producer text NOT NULL,
    n bigint,
    time bigint NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (seq, incarnation)
);
CREATE INDEX record_subject ON record (subject, producer, n);

-- Which steps served a request: `first` to `last` are the bounds within one batch of the recorder, not every step
-- between has it. A row per step and request would be most of what we write.
CREATE TABLE step_request (
    request text NOT NULL,
    engine text NOT NULL,
    epoch text NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL
);
CREATE INDEX step_request_request ON step_request (request);
