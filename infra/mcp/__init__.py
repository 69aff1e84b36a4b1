"""Our agents for clients of the Model Context Protocol."""
