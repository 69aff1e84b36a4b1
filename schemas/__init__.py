"""The shapes of everything that crosses a border: events, commands, plans, messages."""
