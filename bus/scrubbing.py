"""Takes the tokens of some requests out of scheduler steps: zeros stand in their place. Pure.

What is left says when the steps were, who shared them and which blocks they used; not what was said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from schemas.generation import Sampling
from schemas.steps import Applied, Arrival, StepPlan, StepResult, Submitted, Told, ToldMore

Wanted = Callable[[str], bool]
"""Says of a request whether its tokens go."""
Sampled = Mapping[int, Sequence[str]]
"""By the number of a step, the requests that it sampled for, in the order of its batch."""


def sampled_by(plan: StepPlan) -> tuple[str, ...]:
    """List the requests that a step samples for."""
    return tuple(part.request for part in plan.slices if part.sample)


def scrubbed_plan(plan: StepPlan, wanted: Wanted, sampled: Sampled) -> StepPlan:
    """Scrub a plan; `sampled` knows the plans whose results it was told."""
    arrivals = tuple(_arrival(one) if wanted(one.request) else one for one in plan.arrivals)
    return replace(plan, arrivals=arrivals, told=_told(plan.told, wanted, sampled))


def scrubbed_more(told: ToldMore, wanted: Wanted, sampled: Sampled) -> ToldMore:
    """Scrub what a scheduler was told; as `scrubbed_plan`."""
    return replace(told, told=_told(told.told, wanted, sampled))


def scrubbed_result(result: StepResult, wanted: Wanted) -> StepResult:
    """Scrub a result."""
    return replace(
        result,
        tokens=tuple((request, 0 if wanted(request) else token) for request, token in result.tokens),
        logprobs=tuple(one for one in result.logprobs if not wanted(one[0])),
        prompt_logprobs=tuple(one for one in result.prompt_logprobs if not wanted(one[0])),
    )


def _arrival(arrival: Arrival) -> Arrival:
    return replace(arrival, tokens=_zeros(arrival.tokens), sampling=_sampling(arrival.sampling), erased=True)


def _sampling(sampling: Sampling) -> Sampling:
    """Keep of what was asked for what holds no words."""
    return replace(sampling, structured=None, bad_words=(), stop_tokens=(), trace_decode_token_ids=(), extra_args={})


def _told(told: Sequence[Told], wanted: Wanted, sampled: Sampled) -> tuple[Told, ...]:
    return tuple(_one(one, wanted, sampled) for one in told)


def _one(one: Told, wanted: Wanted, sampled: Sampled) -> Told:
    if isinstance(one, Submitted) and wanted(one.submit.request):
        bare = {"prompt": _zeros(one.submit.prompt), "output": _zeros(one.submit.output), "logprobs": ()}
        sampling = _sampling(one.submit.sampling)
        submit = replace(one.submit, **bare, prompt_logprobs=(), sampling=sampling)
        return replace(one, submit=submit, erased=True)
    if isinstance(one, Applied):
        whose = sampled.get(one.n, ())
        pairs = enumerate(one.tokens)
        gone = [at < len(whose) and wanted(whose[at]) for at in range(len(one.tokens))]
        return replace(one, tokens=tuple(0 if gone[at] and token is not None else token for at, token in pairs))
    return one


def _zeros(tokens: Sequence[int]) -> tuple[int, ...]:
    return (0,) * len(tokens)
