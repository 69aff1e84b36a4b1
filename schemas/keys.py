"""API keys: what the log holds of them. The secret itself is nowhere: only its holder has it."""

from __future__ import annotations

from typing import Literal

KeyScope = Literal["inference", "agents", "metrics", "admin"]
"""What a key opens: models, agents and their threads, figures for dashboards, and what changes the server itself."""
