-- Projections: tables filled from the log, which can be made again from it at any time (bus/projections.py). Each is
-- made as a build, and readers see the build that `projection` names: a rebuild writes another one beside it, with a
-- cursor of its own, and is seen when that row changes. Read the views `threads`, `runs` and `usage`.

CREATE TABLE projection_build (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL
);

-- `code` is what the build was made by: one that other code made, or whose events were mended (then it is empty), is
-- made again.
CREATE TABLE projection (
    name text PRIMARY KEY,
    build bigint NOT NULL,
    code text NOT NULL
);

-- A projection's cursor is called `projection.<name>.<build>`. A batch of it may end within an envelope that is very
-- large: `idx` is the last event that was taken. The copies of streams take whole messages.
ALTER TABLE cursor ADD COLUMN idx integer NOT NULL DEFAULT 2147483647;

-- What must be known of a thread that is not at rest to follow its next event.
CREATE TABLE projection_state (
    build bigint NOT NULL,
    tenant text NOT NULL,
    thread text NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (build, tenant, thread)
) WITH (fillfactor = 80);

-- `events`, `messages` and the times are of all that the thread holds, of a fork its copied history too; `runs` ran
-- here. `messages` came from outside. `stopped` says which event this code cannot follow, `unread` counts those from
-- there on.
CREATE TABLE projected_thread (
    build bigint NOT NULL,
    tenant text NOT NULL,
    thread text NOT NULL,
    kind text,
    agent text,
    status text,
    runs bigint NOT NULL,
    refused bigint NOT NULL,
    messages bigint NOT NULL,
    events bigint NOT NULL,
    unread bigint NOT NULL,
    first bigint,
    last bigint,
    origin text,
    stopped text,
    PRIMARY KEY (build, tenant, thread)
) WITH (fillfactor = 80);

-- `reason` is the finish reason of a run that finished, and the kind of problem of one that failed. Of a run that was
-- `forked` only what happened in this thread is counted.
CREATE TABLE projected_run (
    build bigint NOT NULL,
    tenant text NOT NULL,
    thread text NOT NULL,
    run text NOT NULL,
    kind text,
    agent text,
    model text,
    status text,
    reason text,
    forked boolean,
    asked bigint,
    started bigint,
    finished bigint,
    model_calls bigint NOT NULL,
    tool_calls bigint NOT NULL,
    prompt_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    PRIMARY KEY (build, tenant, thread, run)
) WITH (fillfactor = 80);
CREATE INDEX projected_run_asked ON projected_run (build, asked);

-- A day is one of UTC, and of the event: a run over midnight is in two. `agent` is empty for bare generations. Events
-- of threads that cannot be followed are counted as `unread`, without an agent.
CREATE TABLE projected_usage (
    build bigint NOT NULL,
    tenant text NOT NULL,
    agent text NOT NULL,
    model text NOT NULL,
    day date NOT NULL,
    runs bigint NOT NULL,
    failed bigint NOT NULL,
    model_calls bigint NOT NULL,
    tool_calls bigint NOT NULL,
    prompt_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    unread bigint NOT NULL,
    PRIMARY KEY (build, tenant, agent, model, day)
) WITH (fillfactor = 80);

CREATE VIEW threads AS
SELECT tenant, thread, kind, coalesce(agent, '') AS agent, coalesce(status, 'idle') AS status, runs, refused, messages, events, unread, first,
    last, coalesce(origin, '') AS origin, coalesce(stopped, '') AS stopped
FROM projection JOIN projected_thread USING (build) WHERE projection.name = 'threads';

CREATE VIEW runs AS
SELECT tenant, thread, run, kind, coalesce(agent, '') AS agent, coalesce(model, '') AS model, status,
    coalesce(reason, '') AS reason, coalesce(forked, false) AS forked, asked, started, finished, model_calls,
    tool_calls, prompt_tokens, completion_tokens, cached_tokens
FROM projection JOIN projected_run USING (build) WHERE projection.name = 'runs';

CREATE VIEW usage AS
SELECT tenant, agent, model, day, runs, failed, model_calls, tool_calls, prompt_tokens, completion_tokens,
    cached_tokens, unread
FROM projection JOIN projected_usage USING (build) WHERE projection.name = 'usage';

-- Step records expire, threads stay: `record` and `step_request` are partitioned by the day (UTC) of `time`, so that
-- the old ones go at once and without a scan. Partitions are made as they are needed and attached, which takes no lock
-- that writers wait for; there is no default partition, which would have to be locked and searched each time.
-- `event` and `commit` are not partitioned (0001 says why).

-- Step records stored before `until` are gone.
CREATE TABLE retention (
    name text PRIMARY KEY,
    until bigint NOT NULL
);

ALTER TABLE record RENAME TO record_first;
ALTER TABLE record_first DROP CONSTRAINT record_pkey;
ALTER INDEX record_subject RENAME TO record_first_subject;

-- Unique within a day only; a message that was copied twice has one time, and is refused all the same.
CREATE TABLE record (
    incarnation integer NOT NULL,
    seq bigint NOT NULL,
    tenant text NOT NULL,
    subject text NOT NULL,
    producer text NOT NULL,
    n bigint,
    time bigint NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (seq, incarnation, time)
) PARTITION BY RANGE (time);
CREATE INDEX record_subject ON record (subject, producer, n);

ALTER TABLE step_request RENAME TO step_request_first;
ALTER INDEX step_request_request RENAME TO step_request_first_request;

-- `time` is that of the last plan.
CREATE TABLE step_request (
    request text NOT NULL,
    engine text NOT NULL,
    epoch text NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    time bigint NOT NULL
) PARTITION BY RANGE (time);
CREATE INDEX step_request_request ON step_request (request);

-- What is there already stays as one partition, up to the end of its last day: nothing is copied.
DO $$
DECLARE
    day constant bigint := 86400000000;
    latest bigint := (SELECT max(time) FROM record_first);
BEGIN
    IF latest IS NULL THEN
        DROP TABLE record_first, step_request_first;
        RETURN;
    END IF;
    EXECUTE format('ALTER TABLE step_request_first ADD COLUMN time bigint NOT NULL DEFAULT %s', latest);
    ALTER TABLE step_request_first ALTER COLUMN time DROP DEFAULT;
    EXECUTE format('ALTER TABLE record ATTACH PARTITION record_first FOR VALUES FROM (MINVALUE) TO (%s)',
        (latest / day + 1) * day);
    EXECUTE format('ALTER TABLE step_request ATTACH PARTITION step_request_first FOR VALUES FROM (MINVALUE) TO (%s)',
        (latest / day + 1) * day);
END
$$;
