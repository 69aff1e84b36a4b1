"""The only place that knows NATS and Postgres: the log, its streams, its recorder."""
