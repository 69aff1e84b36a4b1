"""What the scheduler is told when it is made. The model's own configuration belongs to `engine.models`."""

from __future__ import annotations

import msgspec


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The limits a scheduler plans within."""

    blocks: int
    """KV blocks to plan with at most; a worker that says it holds memory for fewer makes it so many."""
    context_length: int
    """Positions the model can attend to: prompt and output together never exceed it."""
    block_size: int = 16
    """Tokens per KV block."""
    max_running: int = 256
    """Requests that hold KV blocks at the same time."""
    max_step_tokens: int = 2048
    """Token positions computed in one step, over all requests."""
    prefill_chunk: int = 512
    """Positions of one request computed in one step."""
    max_waiting: int = 1024
    """Requests that may wait for admission; one more is refused as overloaded."""
    max_in_flight: int = 2
    """Plans made before the result of the first of them must be applied."""
    max_finished: int = 4096
    """Finished requests remembered, so that a frontend which lost their tokens can fetch them."""
    retry_after_ms: int = 1000
    """What a refusal for overload advises, when nothing better is known."""

    def __post_init__(self) -> None:
        """Refuse limits under which nothing could ever run.

        Raises:
            ValueError: a limit is not positive.
        """
        for name in self.__struct_fields__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")
