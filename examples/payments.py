"""An agent that pays: a person agrees, and says with which account: `ostinato up --agents examples/payments.py`."""

from dataclasses import dataclass

from ostinato import Agent, ToolContext, tool


@dataclass
class Account:
    """Where the money comes from."""

    name: str


@tool(effect="once", needs_approval=lambda amount: amount > 100)
def pay(to: str, amount: int, context: ToolContext) -> str:
    """Pay somebody.

    Args:
        to: whom.
        amount: how much, in whole euros.
        context: filled in by the system.
    """
    account = context.suspend({"from which account?": f"{amount} to {to}"}, Account)
    context.progress({"paying": amount})
    return f"paid {amount} to {to} from {account.name}, once: {context.key}"


payments = Agent("payments", "You pay bills. Say what was paid.", tools=[pay], stop_tools=["pay"])
