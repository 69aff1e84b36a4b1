"""The HTTP bridge: foreign protocols in front, the bus behind."""
