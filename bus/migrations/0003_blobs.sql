-- A payload that was too large for its envelope: the hash of what stood in its place there. `payload` is whole, and the
-- envelope's bytes can be made again all the same.
ALTER TABLE event ADD COLUMN blob text;
-- The envelope's bytes, where its rows cannot give them back: Postgres text has no NUL.
ALTER TABLE commit ADD COLUMN raw bytea;
CREATE INDEX event_blob ON event (seq) WHERE blob IS NOT NULL;
