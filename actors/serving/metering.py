"""How long requests wait, compute and take from token to token, counted in the scheduler's process.

It hears what the scheduler hears and says, and no more often: a step costs it one look at each token. What it counts
is cumulative, with vLLM's bounds, so that whoever asks may ask as seldom as he likes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, Final, get_args

from actors.tally import Tally
from schemas.generation import FinishReason, Submit
from schemas.steps import RequestEvent, Served, StepPlan

_SECONDS: Final = 1e-6
_MOST_STRETCHES: Final = 64

LATENCIES: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)  # fmt: skip
FIRST_TOKEN: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    *(160.0, 640.0, 2560.0),
)  # fmt: skip
BETWEEN_TOKENS: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)  # fmt: skip
STEP_TOKENS: Final = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
ANSWERS: Final = (1, 2, 5, 10, 20)
REQUESTS: Final = tuple(round(0.01 * 2**power, 2) for power in range(14))
"""Of OpenTelemetry's conventions, which want others for a request's duration."""


class _Open:
    """A request that is not over."""

    __slots__ = ("began", "cached", "end", "first", "last", "start", "stretches", "submit", "submitted")

    def __init__(self, submit: Submit, now: int) -> None:
        self.submit = submit
        self.submitted = now
        self.began = self.cached = self.first = self.last = 0
        self.stretches: list[tuple[int, int]] = []
        """Steps in a row that it was in, but the last ones."""
        self.start = self.end = 0
        """Those: the first and the last of them."""

    def computed_in(self, n: int) -> None:
        """Note a step."""
        if self.end and n > self.end + 1:
            if len(self.stretches) < _MOST_STRETCHES:
                self.stretches.append((self.start, self.end))
            self.start = n
        self.start, self.end = self.start or n, max(n, self.end)

    def steps(self) -> tuple[tuple[int, int], ...]:
        """Tell the steps it was in."""
        return (*self.stretches, (self.start, self.end)) if self.end else ()


class Meter:
    """Counts for one scheduler."""

    def __init__(self, epoch: str, context_length: int) -> None:
        """Make it; nothing is longer than `context_length`."""
        self._epoch = epoch
        self._open: dict[str, _Open] = {}
        self._generated = 0
        self._finished: dict[str, int] = dict.fromkeys(get_args(FinishReason), 0)
        tokens = one_two_five(context_length)
        self._first, self._between, self._step = Tally(FIRST_TOKEN), Tally(BETWEEN_TOKENS), Tally(STEP_TOKENS)
        self._per_token, self._answers = Tally(BETWEEN_TOKENS), Tally(ANSWERS)
        self._whole, self._queue, self._inference = Tally(LATENCIES), Tally(LATENCIES), Tally(LATENCIES)
        self._prefill, self._decode, self._request = Tally(LATENCIES), Tally(LATENCIES), Tally(REQUESTS)
        self._prompt, self._output, self._asked = Tally(tokens), Tally(tokens), Tally(tokens)
        self._preempted, self._computed = Tally(ANSWERS), Tally(tokens)

    def submitted(self, submit: Submit, now: int) -> None:
        """A request was taken on, perhaps once more."""
        if submit.request not in self._open:
            self._open[submit.request] = _Open(submit, now)

    def planned(self, plan: StepPlan) -> None:
        """A step was planned."""
        self._step.add(sum(part.count for part in plan.slices))
        for arrival in plan.arrivals:
            opened = self._open.get(arrival.request)
            if opened is None:
                continue
            if not opened.began:
                opened.began, opened.cached = plan.time, min(arrival.computed, arrival.prompt_tokens)
            opened.computed_in(plan.n)

    def applied(self, n: int, events: Iterable[RequestEvent], now: int) -> list[Served]:
        """Step `n` brought this, or it happened without any step (0); tell how those went that are over."""
        over = list[Served]()
        between, known, seconds, at = self._between, 0, 0.0, 0
        for event in events:
            opened = self._open.get(event.request)
            if opened is None:
                continue
            if event.tokens and n:
                if opened.last:
                    if opened.last != known:  # most had their last token at the same time
                        known = opened.last
                        seconds = (now - known) * _SECONDS
                        at = bisect_left(between.bounds, seconds)
                    between.counts[at] += 1
                    between.sum += seconds
                else:
                    self._began_to_write(opened, now)
                opened.last = now
                self._generated += 1
                if opened.end + 1 == n:
                    opened.end = n
                else:
                    opened.computed_in(n)
            if event.finish is not None:
                over.append(self._ended(opened, event, event.finish, now))
        return over

    def _began_to_write(self, opened: _Open, now: int) -> None:
        opened.first = now
        # else there was a first token before, of a scheduler that was lost
        if not opened.submit.output:
            self._first.add((now - opened.submitted) * _SECONDS)

    def _ended(self, opened: _Open, event: RequestEvent, finish: FinishReason, now: int) -> Served:
        submit, outputs = opened.submit, event.start + len(event.tokens)
        del self._open[submit.request]
        self._finished[finish] += 1
        self._whole.add((now - opened.submitted) * _SECONDS)
        self._request.add((now - opened.submitted) * _SECONDS)
        if opened.began:
            self._queue.add(max(0, opened.began - opened.submitted) * _SECONDS)
        if opened.first:
            self._prefill.add(max(0, opened.first - opened.began) * _SECONDS)
            self._decode.add((opened.last - opened.first) * _SECONDS)
            self._inference.add(max(0, opened.last - opened.began) * _SECONDS)
            own = outputs - len(submit.output)
            if own > 1:
                self._per_token.add((opened.last - opened.first) * _SECONDS / (own - 1))
        self._prompt.add(len(submit.prompt))
        self._output.add(outputs)
        self._asked.add(submit.sampling.max_tokens)
        self._answers.add(1)
        self._preempted.add(event.preemptions)
        self._computed.add(len(submit.prompt) - opened.cached)
        return Served(
            epoch=self._epoch,
            n=opened.end,
            request=submit.request,
            submitted=opened.submitted,
            began=opened.began,
            first=opened.first,
            ended=now,
            finish=finish,
            prompt_tokens=len(submit.prompt),
            output_tokens=outputs,
            cached=opened.cached,
            preemptions=event.preemptions,
            recomputed=event.recomputed,
            steps=opened.steps(),
            max_tokens=submit.sampling.max_tokens,
            traceparent=submit.traceparent,
        )

    def adapters(self) -> dict[str, list[str]]:
        """Name the adapters of requests that are computed, and of those that wait to be."""
        by_state: dict[str, set[str]] = {"running": set(), "waiting": set()}
        for opened in self._open.values():
            if name := opened.submit.sampling.adapter:
                by_state["running" if opened.began else "waiting"].add(name)
        return {state: sorted(names) for state, names in by_state.items()}

    def numbers(self) -> dict[str, Any]:
        """Say what was counted since the scheduler began: histograms by vLLM's names, without its prefix."""
        tallies = {
            "time_to_first_token_seconds": self._first,
            "inter_token_latency_seconds": self._between,
            "request_time_per_output_token_seconds": self._per_token,
            "e2e_request_latency_seconds": self._whole,
            "request_queue_time_seconds": self._queue,
            "request_inference_time_seconds": self._inference,
            "request_prefill_time_seconds": self._prefill,
            "request_decode_time_seconds": self._decode,
            "iteration_tokens_total": self._step,
            "request_prompt_tokens": self._prompt,
            "request_generation_tokens": self._output,
            "request_max_num_generation_tokens": self._output,
            "request_params_max_tokens": self._asked,
            "request_params_n": self._answers,
            "request_num_preemptions": self._preempted,
            "request_prefill_kv_computed_tokens": self._computed,
            "request_duration": self._request,
        }
        histograms = {name: tally.numbers() for name, tally in tallies.items()}
        return {"generated": self._generated, "finished": dict(self._finished), "histograms": histograms}


def one_two_five(most: int) -> list[int]:
    """Give 1, 2, 5, 10, 20, 50 and so on, up to `most`."""
    bounds, power = list[int](), 1
    while power <= most:
        bounds += [step * power for step in (1, 2, 5) if step * power <= most]
        power *= 10
    return bounds
