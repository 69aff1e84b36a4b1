"""Spans for OpenTelemetry, made of the log alone: what is sent while it happens is what an export makes of it later."""
