"""What every actor runs on: context, shards, supervision, replay."""
