-- What seals the payloads of threads (bus/keyring.py): a key each, wrapped with the master key, which is not here.
-- Deleting a row erases what it sealed, in every copy of the log. `master` tells which master key wrapped it.
CREATE TABLE sealing_key (
    id text PRIMARY KEY,
    wrapped bytea NOT NULL,
    master text NOT NULL
);
