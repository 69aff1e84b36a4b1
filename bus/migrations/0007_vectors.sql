-- What was said, as vectors: a projection like the others, made by whoever has the embedding model. `embedder` names the
-- model; nothing here is compared with another one's. The text stays where it is, in table `event`.
CREATE TABLE spoken_vector (
    embedder text NOT NULL,
    incarnation integer NOT NULL,
    seq bigint NOT NULL,
    idx integer NOT NULL,
    tenant text NOT NULL,
    thread text NOT NULL,
    resource text NOT NULL,
    embedding real[] NOT NULL,
    PRIMARY KEY (embedder, incarnation, seq, idx)
);
CREATE INDEX spoken_vector_thread ON spoken_vector (embedder, tenant, thread, incarnation, seq, idx);
CREATE INDEX spoken_vector_resource ON spoken_vector (embedder, tenant, resource);

ALTER TABLE spoken_vector ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON spoken_vector FOR SELECT USING (tenant = current_setting('ostinato.tenant', true));

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'ostinato_tenant') THEN
        GRANT SELECT ON spoken_vector TO ostinato_tenant;
    END IF;
    -- pgvector's operators are used where the server has them; the search is exact with or without
    BEGIN
        CREATE EXTENSION IF NOT EXISTS vector;
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
END
$$;
