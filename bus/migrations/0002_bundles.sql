-- Threads that were imported from bundle files, to be read beside the log. They are no part of it: the recorder knows
-- nothing of these tables, no actor reads them, and the files can be imported again.

CREATE TABLE bundle (
    name text PRIMARY KEY,
    digest text NOT NULL,
    redacted boolean NOT NULL
);

-- As table `event`, whose sequences are those of the log that the bundle was made of.
CREATE TABLE bundle_event (
    bundle text NOT NULL REFERENCES bundle ON DELETE CASCADE,
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
    PRIMARY KEY (bundle, thread, tenant, incarnation, seq, idx)
);
