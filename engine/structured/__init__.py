"""Structured outputs: grammars, who compiles them, and how they keep an answer in shape."""
