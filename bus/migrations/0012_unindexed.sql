-- What was said and no vector could be made of, and why. It is tried again at `due`; without that it was tried as often
-- as it is, and is set aside until somebody asks for it. A part of the projection of vectors: it goes with its thread, and
-- when vectors are made again.
CREATE TABLE unindexed (
    embedder text NOT NULL,
    incarnation integer NOT NULL,
    seq bigint NOT NULL,
    idx integer NOT NULL,
    tenant text NOT NULL,
    thread text NOT NULL,
    reason text NOT NULL,
    tries integer NOT NULL,
    due timestamptz,
    PRIMARY KEY (embedder, incarnation, seq, idx)
);
CREATE INDEX unindexed_thread ON unindexed (tenant, thread);
CREATE INDEX unindexed_due ON unindexed (embedder, due);

ALTER TABLE unindexed ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON unindexed FOR SELECT USING (tenant = current_setting('ostinato.tenant', true));

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'ostinato_tenant') THEN
        GRANT SELECT ON unindexed TO ostinato_tenant;
    END IF;
END
$$;
