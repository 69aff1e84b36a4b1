"""A tool by which a model asks the user, and waits for the answer however long that takes."""

from __future__ import annotations

from typing import Any, Literal

from actors.tools import Tool, ToolContext, tool

MOST_OPTIONS = 50


def ask_user() -> Tool:
    """Make the tool: its run waits until somebody sends `resume` with the answer, over restarts.

    Whoever answers sees `{"question": …, "options": […]}`, and the JSON Schema of the answer: a text, one of the
    options, or a list of them. Another answer is told to whoever gave it, and waited for anew.
    """

    @tool(name="ask_user", effect="pure")
    async def ask(
        question: str, context: ToolContext, options: list[str] | None = None, several: bool = False
    ) -> str | list[str]:
        """Ask the user, and wait for the answer. Use it when you cannot go on without knowing.

        Args:
            question: one question, with all that is needed to answer it.
            options: the answers to choose from; leave it out for an answer in the user's own words.
            several: whether more than one option may be chosen.
            context: of the call.
        """
        if len(options or ()) > MOST_OPTIONS:
            raise ValueError(f"options: at most {MOST_OPTIONS}, not {len(options or ())}")
        payload = {"question": question, **({"options": options} if options else {})}
        answer: str | list[str] = context.suspend(payload, _shape(options, several))
        return answer

    return ask


def _shape(options: list[str] | None, several: bool) -> Any:
    if not options:
        return str
    one: Any = Literal.__getitem__(tuple(options))
    return list[one] if several else one
