"""Executes step plans: the worker's side of the engine."""
