"""What is not fetched from the hub, though it is named as what a model needs is."""

from __future__ import annotations

from typing import Final

UNWANTED: Final = ("checkpoint-*/*", "*/checkpoint-*/*")
"""Patterns of what a training left on its way: the model, or its adapter, several times over."""
