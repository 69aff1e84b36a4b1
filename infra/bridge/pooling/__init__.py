"""Routes of models that give vectors or scores."""
