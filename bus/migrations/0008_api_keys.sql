-- What the log says of API keys: read whole whenever a bridge starts, and now and then.
CREATE INDEX event_key ON event (incarnation, seq, idx) WHERE kind = 'key';
