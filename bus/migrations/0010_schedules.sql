-- Schedules: what each is, and when it fires next (0 is never).
CREATE TABLE projected_schedule (
    build bigint NOT NULL,
    tenant text NOT NULL,
    thread text NOT NULL,
    schedule text,
    status text,
    next bigint,
    fired bigint NOT NULL,
    last bigint,
    PRIMARY KEY (build, tenant, thread)
) WITH (fillfactor = 80);

CREATE VIEW schedules AS
SELECT tenant, thread, schedule, coalesce(status, '') AS status, coalesce(next, 0) AS next, fired, last
FROM projection JOIN projected_schedule USING (build) WHERE projection.name = 'schedules' AND schedule IS NOT NULL;

-- What waits for somebody is few of all runs.
CREATE INDEX projected_run_waiting ON projected_run (build, asked) WHERE status = 'waiting';

ALTER TABLE projected_schedule ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON projected_schedule FOR SELECT USING (tenant = current_setting('ostinato.tenant', true));
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'ostinato_tenant') THEN
        GRANT SELECT ON projected_schedule TO ostinato_tenant;
    END IF;
END
$$;
