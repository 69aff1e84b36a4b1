-- Whose a thread is, its title, and what else is noted of it (a JSON object of texts).
ALTER TABLE projected_thread ADD COLUMN resource text, ADD COLUMN title text, ADD COLUMN metadata text;
CREATE INDEX projected_thread_resource ON projected_thread (build, tenant, resource, last DESC);

CREATE OR REPLACE VIEW threads AS
SELECT tenant, thread, kind, coalesce(agent, '') AS agent, coalesce(status, 'idle') AS status, runs, refused, messages, events, unread, first,
    last, coalesce(origin, '') AS origin, coalesce(stopped, '') AS stopped, coalesce(resource, '') AS resource,
    coalesce(title, '') AS title, coalesce(metadata, '') AS metadata
FROM projection JOIN projected_thread USING (build) WHERE projection.name = 'threads';

-- Whoever reads for one tenant does so as a role that sees the rows of that tenant alone, whatever the query says: the
-- setting `ostinato.tenant` names it, and without it there are none. The owner of the tables, who fills them, sees all.
ALTER TABLE projected_thread ENABLE ROW LEVEL SECURITY;
ALTER TABLE projected_run ENABLE ROW LEVEL SECURITY;
ALTER TABLE projected_usage ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON projected_thread FOR SELECT USING (tenant = current_setting('ostinato.tenant', true));
CREATE POLICY of_tenant ON projected_run FOR SELECT USING (tenant = current_setting('ostinato.tenant', true));
CREATE POLICY of_tenant ON projected_usage FOR SELECT USING (tenant = current_setting('ostinato.tenant', true));

-- Roles are of the whole server, and not everybody may make them: where we may not, an administrator does so, and
-- grants what is granted here.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ostinato_tenant') THEN
        BEGIN
            CREATE ROLE ostinato_tenant NOLOGIN;
        EXCEPTION
            WHEN insufficient_privilege THEN RETURN;
            WHEN duplicate_object OR unique_violation THEN NULL; -- another database of this server was migrated just now
        END;
    END IF;
    BEGIN
        GRANT ostinato_tenant TO CURRENT_USER;
    EXCEPTION WHEN insufficient_privilege THEN NULL;
    END;
    GRANT SELECT ON projection, projected_thread, projected_run, projected_usage TO ostinato_tenant;
END
$$;
