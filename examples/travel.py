"""An agent whose tools live in other processes, and in the caller's: `ostinato up --agents examples/travel.py`."""

from ostinato import Agent, Approval, RequestContext, Services, client_tool


def instructions(context: RequestContext) -> str:
    """Greet whoever asks by name."""
    return f"You plan journeys for {context.get('user', 'a guest')}. Ask for the weather before you propose anything."


where = client_tool("where", "Tell where the user is.")
travel = Agent("travel", instructions, tools=[Approval(Services("weather"), lambda city: city == "Atlantis"), where])
