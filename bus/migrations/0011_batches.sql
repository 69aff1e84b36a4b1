-- Files of clients: what batches ask, and what they are answered. The log has none of it: deleting the rows, and the key
-- that sealed them, deletes it. A file's content is its parts' data in the order of `at`, which is the number of the first
-- line that a part holds.
CREATE TABLE file (
    tenant text NOT NULL,
    id text NOT NULL,
    name text NOT NULL,
    purpose text NOT NULL,
    created bigint NOT NULL,
    expires bigint NOT NULL,
    complete boolean NOT NULL DEFAULT false,
    bytes bigint NOT NULL DEFAULT 0,
    lines bigint NOT NULL DEFAULT 0,
    key_id text,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX file_expires ON file (expires) WHERE expires > 0;

CREATE TABLE file_part (
    tenant text NOT NULL,
    file text NOT NULL,
    at bigint NOT NULL,
    size integer NOT NULL,
    lines integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (tenant, file, at),
    FOREIGN KEY (tenant, file) REFERENCES file (tenant, id) ON DELETE CASCADE
);
-- what is sealed, or JSON, is not worth another try to make it small
ALTER TABLE file_part ALTER COLUMN data SET STORAGE EXTERNAL;

-- Batches: what each is, and how it stands.
CREATE TABLE projected_batch (
    build bigint NOT NULL,
    tenant text NOT NULL,
    thread text NOT NULL,
    batch text,
    status text,
    created bigint,
    expires bigint,
    started bigint,
    finalizing bigint,
    cancelling bigint,
    ended bigint,
    total bigint,
    completed bigint NOT NULL,
    failed bigint NOT NULL,
    prompt_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    written text,
    problems text,
    PRIMARY KEY (build, tenant, thread)
) WITH (fillfactor = 80);

CREATE VIEW batches AS
SELECT tenant, thread, batch, coalesce(status, '') AS status, created, expires, started, finalizing, cancelling, ended,
    coalesce(total, 0) AS total, completed, failed, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens,
    written, problems
FROM projection JOIN projected_batch USING (build) WHERE projection.name = 'batches' AND batch IS NOT NULL;

ALTER TABLE projected_batch ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON projected_batch FOR SELECT USING (tenant = current_setting('ostinato.tenant', true));
ALTER TABLE file ENABLE ROW LEVEL SECURITY;
ALTER TABLE file_part ENABLE ROW LEVEL SECURITY;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'ostinato_tenant') THEN
        GRANT SELECT ON projected_batch TO ostinato_tenant;
    END IF;
END
$$;
