"""Schedules: agents that are asked by the clock."""
