"""An agent that recalls what was said, by an embedder that takes its time: for tests of what a crash leaves of it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

from actors.memory.embedding import WordEmbedder
from actors.processors.recall import SemanticRecall
from ostinato import Agent

WITNESS = Path(os.environ.get("OSTINATO_TEST_WITNESS", "/dev/null"))


class Dwelling:
    """An embedder that dwells on some texts until a file lies beside the witness, and refuses others."""

    name = "dwelling"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed, in its own time."""
        if any("indigestible" in text for text in texts):
            raise ValueError("no")
        if any("dwell" in text for text in texts):
            await asyncio.to_thread(_dwell)
        return await WordEmbedder().embed(texts)


def _dwell() -> None:
    with WITNESS.open("a", encoding="utf-8") as witness:
        witness.write("dwells\n")
    while not WITNESS.with_suffix(".go").exists():
        time.sleep(0.02)


finder = Agent("finder", "Answer.", "local/scripted", processors=[SemanticRecall(Dwelling(), scope="tenant")])
