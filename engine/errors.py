"""What can go wrong in the engine.

EngineError
├── BadRequest           a caller's value the engine cannot take: names the field
├── CheckpointError      a file of the checkpoint is missing, damaged, or not what the model needs
│   └── NoChatTemplate   there is no chat template among them
├── UnsupportedModel     the checkpoint's architecture is not one of ours
├── TemplateError        the chat template is broken, or refused these messages
├── UnknownParser        no format of answers has that name
├── PlatformUnavailable  the device or kernel asked for cannot be used here
├── NotEnoughMemory      the model or its KV cache does not fit
├── NotFinite            of a whole text the model computed what is no number
└── IllegalTransition    a request was moved to a state it cannot reach from its own: our bug

Requests that cannot be served now (too long, overloaded) are values, `schemas.generation.Refused`, not errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class EngineError(Exception):
    """The root of what the engine raises."""


class BadRequest(EngineError):
    """A caller's value that the engine cannot take."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class CheckpointError(EngineError):
    """Something is wrong with a checkpoint's file or folder."""

    def __init__(self, path: Path | str, problem: str) -> None:
        super().__init__(f"checkpoint {str(path)!r}: {problem}")
        self.path = Path(path)
        self.problem = problem


class NoChatTemplate(CheckpointError):
    """A checkpoint has no chat template: its model takes raw prompts."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, "it has no chat template (chat_template.jinja): not a chat model")


class UnsupportedModel(EngineError):
    """No model class of ours serves this architecture."""

    def __init__(self, architecture: str, supported: Iterable[str]) -> None:
        self.architecture = architecture
        self.supported = tuple(sorted(supported))
        super().__init__(f"architecture {architecture!r} is not supported: supported are {', '.join(self.supported)}")


class TemplateError(EngineError):
    """The chat template does not compile, or refused the messages it was given."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(f"chat template{f', line {line}' if line is not None else ''}: {problem}")
        self.problem = problem
        self.line = line


class UnknownParser(EngineError):
    """No format of tool calls, or of reasoning, has that name."""

    def __init__(self, setting: str, name: str, known: Iterable[str]) -> None:
        self.setting = setting
        self.name = name
        self.known = tuple(sorted(known))
        self.problem = f"{name!r} is not known: known are auto, {', '.join(self.known)}"
        super().__init__(f"{setting}: {self.problem}")


class CallMissing(EngineError):
    """An answer without the tool call that it was to have."""

    def __init__(self, tool: str) -> None:
        self.tool = tool
        wanted = f"a call of {tool!r}" if tool else "a tool call"
        super().__init__(
            f"the answer has not {wanted}, which `tool_choice` wants of it: the model wrote something else"
        )


class PlatformUnavailable(EngineError):
    """The device or kernel asked for cannot be used on this machine."""

    def __init__(self, platform: str, problem: str) -> None:
        super().__init__(f"platform {platform!r} cannot be used: {problem}")
        self.platform = platform
        self.problem = problem


class NotEnoughMemory(EngineError):
    """The device lacks the memory for `what`; `mend` says which setting would make it fit."""

    def __init__(self, what: str, needed: int, available: int | None, mend: str) -> None:
        lacking = "more than the device gives" if available is None else f"but {_mib(available)} are available"
        super().__init__(f"{what}: {_mib(needed)} are needed, {lacking}: {mend}")
        self.what = what
        self.needed = needed
        self.available = available
        self.mend = mend


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB ({size:,} bytes)"


class NotFinite(EngineError):
    """Of a whole text the model computed what is no number."""

    def __init__(self, index: int) -> None:
        super().__init__(f"text {index}: the model computed a number that is not finite; take dtype float32")
        self.index = index
        """Its place among those that were given."""


class IllegalTransition(EngineError):
    """A request was asked to change to a state that does not follow its own."""

    def __init__(self, request: str, state: str, wanted: str) -> None:
        super().__init__(f"request {request!r} is {state} and cannot become {wanted}")
        self.request = request
        self.state = state
        self.wanted = wanted
