"""One agent run: its definition, its pure loop, and the actor that performs its effects."""
