"""The scheduler and its books: requests, KV blocks, prefix cache. Plain integers, no torch, no clock, no chance."""
