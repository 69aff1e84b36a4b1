"""A chat that remembers, and knows when it has thought enough: `ostinato up --agents examples/chat.py`."""

from ostinato import Agent, RunEnd, StepChanges, StepView, ToolContext, tool


@tool(effect="idempotent")
def remember(topic: str, text: str, context: ToolContext) -> str:
    """Remember a fact under a topic."""
    context.write_note(topic, text)
    return "saved"


@tool(effect="pure")
def recall(topic: str, context: ToolContext) -> str:
    """Recall what was remembered about a topic."""
    return context.notes.get(topic, f"nothing noted about {topic!r}")


def prepare(view: StepView) -> StepChanges | None:
    """Have the last step answer, whatever is missing."""
    return StepChanges(active_tools=[]) if view.step == 4 else None


def counted(end: RunEnd) -> None:
    """Be told what a run has used."""
    print(f"{end.run}: {end.usage.completion_tokens} tokens")  # noqa: T201  an example


chat = Agent(
    "chat",
    "You are kind and brief.",
    tools=[remember, recall],
    max_steps=4,
    prepare_step=prepare,
    on_finish=counted,
    step_timeout_s=60,
    tool_concurrency=2,
)
