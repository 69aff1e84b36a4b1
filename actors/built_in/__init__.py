"""Tools that an agent's author may give it as they are: none is there unless it is given."""
