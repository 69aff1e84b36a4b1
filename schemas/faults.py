"""What a log may say of an exception: its kind and where it was raised. Its words may be what somebody said."""

from __future__ import annotations

import traceback
from pathlib import PurePath

from schemas.runs import Problem

_FRAMES = 4


def fault(error: BaseException) -> str:
    """Say which exception it is, and where it was raised, the innermost place first; of several the first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = [f"{PurePath(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in reversed(frames)]
    problem = getattr(error, "problem", None)
    name = f"{type(error).__name__} ({problem.kind})" if isinstance(problem, Problem) else type(error).__name__
    return f"{name} at {' < '.join(places)}" if places else name
