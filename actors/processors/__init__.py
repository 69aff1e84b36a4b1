"""What stands between an agent and its model: it may change, hold back or stop what goes either way."""
