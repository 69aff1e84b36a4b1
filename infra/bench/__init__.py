"""Measures how fast models answer: in this process, or by any server that speaks OpenAI's API."""
