"""The public Python API, whole: what an agent author imports."""
