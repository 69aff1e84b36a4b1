"""The servers Ostinato needs, run on this machine: nats-server and Postgres in a data directory."""
