"""What the scheduler is told when it is made. The model's own configuration belongs to `engine.models`."""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

MOST_NUMBERS: Final = 200_000
"""Logarithms that a request may want, and that a step may bring: as JSON, half of the 8 MiB that a message may have."""

Policy = Literal["fcfs", "priority", "agents"]
POLICIES: Final[tuple[str, ...]] = get_args(Policy)


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The limits a scheduler plans within."""

    blocks: int
    """KV blocks to plan with at most, those of all groups; a worker that says it holds memory for fewer makes it so
    many."""
    context_length: int
    """Positions the model can attend to: prompt and output together never exceed it."""
    block_size: int = 16
    """Tokens per KV block."""
    window: int | None = None
    """How many positions back a layer that has a window sees, itself included: what lies before it is given up. All of
    them for None."""
    groups: int = 1
    """Groups of the model's layers, each with blocks of its own: see `engine.core.groups`."""
    windowed: int = 1
    """How many of them, the last ones, have the window if there is one."""
    max_running: int = 256
    """Requests that hold KV blocks at the same time."""
    max_step_tokens: int = 2048
    """Token positions computed in one step, over all requests."""
    prefill_chunk: int = 512
    """Positions of one request computed in one step."""
    max_waiting: int = 1024
    """Requests that may wait for admission; one more is refused as overloaded."""
    max_waiting_tokens: int = 1 << 20
    """Tokens of requests that may wait for admission; one that would make it more is refused, unless none waits."""
    policy: Policy = "fcfs"
    """Who begins first, and who gives way last: whoever came first; or whoever has the lowest `priority`, and of those
    whoever came first; or the turns of `agents`: see `engine.core.agents`."""
    long_prefill: int = 2048
    """A prompt with more positions to compute than this is a long one: only the first of those is sure of its chunk
    in a step, others get what shorter ones and newcomers leave."""
    least_shared: int = 64
    """Tokens, and half of those that it has to compute, that a request must save at least by waiting for one that is
    computing what both begin with. None does if they are more than a context has."""
    least_tail: int = 1
    """Tokens that a last KV block which is not full must hold to be found by whoever goes on from them. None is if they
    are more than a block has."""
    watermark: float = 0.01
    """Share of the KV blocks that new requests leave idle while others run, so that those can grow."""
    reserved: float = 0.78
    """Share of the memory that programs are let in for at most, by the policy `agents`: what they are expected to take
    is taken now and then by more."""
    max_in_flight: int = 2
    """Plans made before the result of the first of them must be applied."""
    max_finished: int = 4096
    """Finished requests remembered, so that a frontend which lost their tokens can fetch them."""
    most_numbers: int = MOST_NUMBERS
    """Logarithms that a request may want, and that a step may bring."""
    retry_after_ms: int = 1000
    """What a refusal for overload advises, when nothing better is known."""

    @property
    def ahead(self) -> int:
        """Positions of a request that are computed at most before the result of the first of them is in."""
        return self.max_in_flight * min(self.prefill_chunk, self.max_step_tokens)

    def __post_init__(self) -> None:
        """Refuse limits under which nothing could ever run.

        Raises:
            ValueError: a limit is not positive, `watermark` or `reserved` no share, `policy` unknown, or `windowed`
                more than all.
        """
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value!r}")
        if not 0 <= self.watermark < 1:
            raise ValueError(f"watermark is a share from 0 to less than 1, not {self.watermark!r}")
        if not 0 < self.reserved <= 1:
            raise ValueError(f"reserved is a share above 0 and up to 1, not {self.reserved!r}")
        if self.windowed > self.groups:
            raise ValueError(f"windowed is {self.windowed}, of {self.groups} groups")
        if self.policy not in POLICIES:
            raise ValueError(f"policy is {', '.join(POLICIES[:-1])} or {POLICIES[-1]}, not {self.policy!r}")
