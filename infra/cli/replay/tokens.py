"""`ostinato replay tokens`: generate again what was recorded, each request alone, and compare bits.

Exit code 0 is the same, 1 is not, 2 is trouble: something that could not be generated again, or that came out otherwise
where kernels or weights are not those it was recorded with.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from bus.errors import BusError
from bus.steps import recorded_requests, requests_for_call
from infra.cli.printing import say, say_json
from infra.cli.progress import Bar
from infra.cli.replay.comparing import Comparing, contradicted
from infra.cli.replay.regenerated import Regenerated, Verdict
from infra.cli.replay.show import find_events
from infra.cli.replay.source import RecordedThreads, source
from infra.cli.terminal import printable, style_for
from infra.errors import InfraError, NothingRecorded
from schemas import codec
from schemas.errors import SchemaError
from schemas.generation import request_id
from schemas.runs import ModelCalled, ModelFailed, ModelReturned, ThreadForked


def main(options: argparse.Namespace) -> int:
    """Generate again what is named, and compare."""
    if [bool(options.ids), options.all, options.last is not None].count(True) != 1:
        sys.stderr.write("ostinato replay tokens: name threads, runs or generations, or use --last or --all\n")
        return 2
    try:
        return asyncio.run(_tokens(options))
    except (InfraError, BusError, SchemaError) as error:
        sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: {error}") + "\n")
        return 2


async def _tokens(options: argparse.Namespace) -> int:
    verdict = Verdict()
    async with source(options) as threads:
        assert isinstance(threads, RecordedThreads)
        requests = await _requests(threads, options)
        if not requests:
            raise NothingRecorded(" ".join(options.ids) or "steps of an engine")
        began, comparing, told = time.monotonic(), Comparing(threads.store, options.model), set[str]()
        with Bar(sys.stderr, "generating") as bar:
            for done, request in enumerate(requests):
                bar(done, len(requests), f"{verdict.tokens} tokens")
                outcome = await _outcome(comparing, request, options, told)
                verdict.add(outcome)
                if options.json or options.ids or outcome.state != "same":
                    bar.clear()
                    _tell(outcome.text(style_for(sys.stdout)), outcome, options)
    verdict.took(time.monotonic() - began)
    _tell(verdict.text(), {"summary": verdict}, options)
    return verdict.code(strict=options.strict)


async def _outcome(comparing: Comparing, request: str, options: argparse.Namespace, told: set[str]) -> Regenerated:
    """Generate one again; what is not as it was is said before, once."""
    found, engine = await comparing.read(request)
    outcome = contradicted(found)
    if outcome is not None:
        return outcome
    problem, elsewhere = await comparing.ready(found, engine)
    if problem:
        return Regenerated(request=request, state="unknown", problem=problem)
    if elsewhere and elsewhere not in told:
        told.add(elsewhere)
        _tell(style_for(sys.stdout).problem(f"not as recorded: {printable(elsewhere)}"), {"note": elsewhere}, options)
    outcome = await comparing.compare(found)
    outcome.elsewhere = elsewhere
    return outcome


def _tell(text: str, value: object, options: argparse.Namespace) -> None:
    if options.json:
        say_json(value)
    else:
        say(text)


async def _requests(threads: RecordedThreads, options: argparse.Namespace) -> list[str]:
    """Name what is to be generated again: of several answers, and of a search for the likeliest, all requests."""
    if not options.ids:
        return await recorded_requests(threads.store, options.last)
    found = dict[str, None]()
    for identity in options.ids:
        for call, ours in (await _calls(threads, options.tenant, identity)).items():
            made = await requests_for_call(threads.store, call)
            found |= dict.fromkeys(made or ([call] if ours else []))
    return list(found)


async def _calls(threads: RecordedThreads, tenant: str, identity: str) -> dict[str, bool]:
    """Name what a thread, run or generation asked of models, and say of each whether an engine of ours must have drawn
    it: others, and answers that were kept from before, have no steps.

    What a fork's origin asked is the origin's; a call that came to nothing has nothing to compare.
    """
    asked = dict[str, bool]()
    for _, stored in await find_events(threads, tenant, identity):
        event = codec.event_of(stored.fact)
        match event:
            case ModelCalled(effect=effect):
                asked[request_id(stored.fact.tenant, stored.fact.thread, effect)] = False
            case ModelReturned(effect=effect, sampled=vouched):
                asked[request_id(stored.fact.tenant, stored.fact.thread, effect)] = vouched is not None
            case ModelFailed(effect=effect):
                asked.pop(request_id(stored.fact.tenant, stored.fact.thread, effect), None)
            case ThreadForked():
                asked.clear()
            case _:
                pass
    return asked
