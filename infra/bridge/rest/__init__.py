"""The REST API of agents, threads, runs, approvals, memory, schedules and tools."""
