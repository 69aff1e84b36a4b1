"""A recorded model, loaded once more, and what comes of recorded requests with it. Imports torch: loaded on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.core.transcript import Transcript
from engine.regeneration import Regenerator, difference
from infra.cli.replay.regenerated import Regenerated
from infra.profiles import reload
from schemas.steps import WorkerBegan


class Again:
    """One model."""

    def __init__(self, loaded: Mapping[str, Any]) -> None:
        """Load it.

        Raises:
            EngineError: it cannot be loaded here.
        """
        self._here = reload(dict(loaded))
        self._regenerator = Regenerator(self._here.runner)

    def elsewhere(self, workers: Sequence[WorkerBegan]) -> str:
        """Say what is not as it was where those workers computed; empty if nothing is."""
        return "; ".join(dict.fromkeys(found for worker in workers for found in self._others(worker)))

    def _others(self, worker: WorkerBegan) -> list[str]:
        found, here = [], self._here
        if worker.checkpoint != here.checkpoint:
            found.append(f"the model's files are others (digest {worker.checkpoint[:8]}, here {here.checkpoint[:8]})")
        if worker.profile != here.profile.id:
            names = sorted({*worker.parts, *here.profile.parts})
            pairs = [(name, worker.parts.get(name, "none"), here.profile.parts.get(name, "none")) for name in names]
            parts = ", ".join(f"{name} {then!r}, here {now!r}" for name, then, now in pairs if then != now)
            found.append(f"the kernel profile was {worker.profile}, here it is {here.profile.id} ({parts})")
        return found

    def compare(self, transcript: Transcript) -> Regenerated:
        """Generate a request again, and compare."""
        made = self._regenerator.again(transcript)
        outcome = Regenerated(
            request=transcript.request,
            state="same",
            tokens=min(len(made.tokens), transcript.count),
            judged=len(transcript.judged),
            preemptions=transcript.preemptions,
        )
        found = difference(transcript, made)
        if found is not None:
            outcome.state, outcome.what = "differs", found.what
            outcome.scheduler, outcome.step = found.place
            outcome.position, outcome.index = found.position, found.index
            outcome.expected, outcome.actual = found.recorded, found.made
        return outcome
