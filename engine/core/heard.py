"""A step's result by request, so that each finds what came of it."""

from __future__ import annotations

from engine.core.request import Request
from schemas.steps import StepResult


class Heard:
    """What one result says."""

    def __init__(self, result: StepResult) -> None:
        self.tokens = dict(result.tokens)
        """What was sampled, by request."""
        self.is_plain = not (
            result.logprobs or result.prompt_logprobs or result.whole or result.closed or result.errors
        )
        """Whether tokens are all that it says: of most steps they are."""
        self._logprobs = dict(result.logprobs)
        self._prompts = {name: (position, found) for name, position, found in result.prompt_logprobs}
        self._whole = frozenset(result.whole)
        self._closed = frozenset(result.closed)
        self._failed = dict(result.errors)
        self._refused = frozenset(result.refused)

    def failed(self, request: Request) -> bool:
        """Say whether the worker could not compute a request, which keeps why if it asked for what cannot be."""
        if request.id in self._refused:
            request.problem = self._failed.get(request.id, "")
        return request.id in self._failed

    def token(self, request: Request) -> int | None:
        """Give the token that was sampled for a request, which keeps what was made of it; None for none."""
        token = self.tokens.get(request.id)
        if self.is_plain:
            return token
        logprobs = self._logprobs.get(request.id)
        if logprobs is not None and token is not None:
            request.logprobs.append(logprobs)
        request.whole = request.id in self._whole
        if request.closed is None and request.id in self._closed:
            request.closed = request.outputs
        return token

    def learn(self, request: Request) -> None:
        """Have a request keep what the model made of its prompt; what it knows already is said again at most."""
        position, found = self._prompts.get(request.id, (0, ()))
        place = position - 1 - request.sampling.prompt_logprob_start
        if found and 0 <= place <= len(request.prompt_logprobs):
            request.prompt_logprobs[place:] = found
