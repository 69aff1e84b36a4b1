"""What the fields of a request for a chat are to an agent: what its run is asked for with, and what is refused. Pure.

What a client instructs besides, and how it would have the model draw, is the agent's author's to open (`open_to`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from infra.bridge.formats import structured
from infra.bridge.unserved import Check
from schemas.commands import RunAgent
from schemas.messages import MOST_TOOLS, Message
from schemas.openai import ChatMessage, ChatRequest

LEFT_OUT: Final = "X-Ostinato-Left-Out"
"""Of an answer: what of its request the model was not told of."""
INSTRUCTING: Final = frozenset({"system", "developer"})
_PASSED: Final = (
    *("top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
    *("reasoning_effort", "parallel_tool_calls", "temperature", "seed"),
)
"""Fields that a run calls the same."""


def agent_checks(request: ChatRequest, neutral: Mapping[str, tuple[object, ...]]) -> Iterator[Check]:
    """Refuse what a run cannot honour: a field dropped in silence is a wrong answer that nobody sees.

    Args:
        request: what is asked.
        neutral: of fields that say how a model writes, the values that change nothing.
    """
    yield "vllm_xargs", not request.vllm_xargs, "an agent samples as its model does: leave it out"
    yield "logprobs", not request.logprobs, "of an agent's run, which may ask its model often, there are none"
    for name, values in neutral.items():
        fits = name in _PASSED or getattr(request, name) in (None, *values)
        yield name, fits, "an agent samples as its model does: leave it out, or give `temperature`"
    few = len(request.tools or ()) <= MOST_TOOLS
    yield "tools", few, f"an agent takes at most {MOST_TOOLS} tools of its client: leave some out"
    chosen = request.tool_choice in (None, "auto", "none")
    yield "tool_choice", chosen, "an agent chooses its tools itself: leave it out, or 'none' for no tools of yours"
    yield "chat_template_kwargs", not request.chat_template_kwargs, "an agent's prompts are its own: leave it out"
    yield "verbosity", request.verbosity in {None, "medium"}, "an agent's prompts are its own: leave it out"


def run_asked(request: ChatRequest, agent: str, messages: Sequence[Message], **about: Any) -> RunAgent:
    """Make the run that a request asks for.

    Args:
        request: what is asked.
        agent: who is asked.
        messages: those that are new, without what is instructed.
        about: what else is known of the run.
    """
    stop = request.stop or ()
    tools = () if request.tool_choice == "none" else tuple(tool.spec for tool in request.tools or ())
    return RunAgent(
        agent=agent,
        messages=tuple(messages),
        approvals="refuse",
        tools=tools,
        system=instructed(request.messages),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        structured=structured(request),
        **{name: value for name in _PASSED if (value := _given(request, name)) is not None},
        **about,
    )


def _given(request: ChatRequest, name: str) -> Any:
    """Give a field's value, unless it changes nothing: no agent must be open to that."""
    value = getattr(request, name)
    return None if value in _NOTHING.get(name, ()) else value


_NOTHING: Final[dict[str, tuple[object, ...]]] = {
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
}


def instructed(messages: Sequence[ChatMessage]) -> str:
    """Join what a client instructs, wherever in the conversation it stands."""
    told = (message.message().content for message in messages if message.role in INSTRUCTING)
    return "\n\n".join(text for text in told if text)
