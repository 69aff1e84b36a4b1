-- A cache of what folding the log gives, so that whoever takes a shard need not read all of it. Nothing here is needed:
-- it can be dropped at any time, and holds for the row of table `commit` that it names alone.

-- How far a shard's threads are known: up to `seq` no effect is open but those of the threads in `open`, and every
-- thread there ever was is in the filter `known` (which may name others too).
CREATE TABLE checkpoint (
    shard integer PRIMARY KEY,
    incarnation integer NOT NULL,
    seq bigint NOT NULL,
    hash text NOT NULL,
    open bytea NOT NULL,
    known bytea NOT NULL
);

-- One thread's state after its events up to `seq`, folded by the code that `reducer` is the hash of.
CREATE TABLE snapshot (
    tenant text NOT NULL,
    thread text NOT NULL,
    family text NOT NULL,
    reducer text NOT NULL,
    incarnation integer NOT NULL,
    seq bigint NOT NULL,
    hash text NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (tenant, thread, family)
);

-- How far JetStream's copy of a stream has been trimmed: written before it is done, so what is missing up to `seq` is
-- meant to be. All of it is in table `commit`.
CREATE TABLE trim (
    stream text PRIMARY KEY,
    seq bigint NOT NULL
);
