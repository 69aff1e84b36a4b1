"""The parts of a transformer, each loading its own weights and written against `Ops`."""
