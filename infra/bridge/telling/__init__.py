"""Runs of agents as protocols for user interfaces tell of them: what they have in common."""
