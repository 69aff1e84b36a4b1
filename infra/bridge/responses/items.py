"""The items of a response as they come about: each begins, grows and ends, with the events that tell of it. Pure."""

from __future__ import annotations

from typing import Any, Literal

from infra.bridge.seals import sealed_text

ItemStatus = Literal["completed", "incomplete"]

Event = dict[str, Any]


class Item:
    """One item: it has its id from the beginning, and is in the stream what it is in the whole response."""

    def __init__(self, index: int, identity: str, kind: str) -> None:
        self.index = index
        self.kind = kind
        """What it is told by: its type, and of calls the number."""
        self.record: dict[str, Any] = {"id": identity, "type": kind.partition(" ")[0], "status": "in_progress"}
        self.text = ""

    def begin(self) -> list[Event]:
        """Tell that it is there."""
        return [self._event("response.output_item.added", item=self.copied())]

    def grow(self, piece: str) -> list[Event]:
        """Tell more of it."""
        raise NotImplementedError

    def end(self, status: ItemStatus) -> list[Event]:
        """Tell all of it."""
        self.record["status"] = status
        return [self._event("response.output_item.done", item=self.copied())]

    def _event(self, kind: str, **fields: Any) -> Event:
        return {"type": kind, "output_index": self.index, **fields}

    def _of_part(self, kind: str, **fields: Any) -> Event:
        return self._event(kind, item_id=self.record["id"], content_index=0, **fields)

    def copied(self) -> dict[str, Any]:
        """Copy what is told: the record goes on growing."""
        copied = dict(self.record)
        if "content" in copied:
            copied["content"] = [dict(part) for part in copied["content"]]
        return copied


class Said(Item):
    """What is said."""

    def __init__(self, index: int, identity: str, kind: str) -> None:
        super().__init__(index, identity, kind)
        self.record |= {"role": "assistant", "content": []}

    def begin(self) -> list[Event]:
        """Tell that it is there, and its one part."""
        events = super().begin()
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self.record["content"].append(part)
        return [*events, self._of_part("response.content_part.added", part={**part, "logprobs": []})]

    def grow(self, piece: str) -> list[Event]:
        """Tell more of the text."""
        return self.say(piece, [])

    def say(self, piece: str, logprobs: list[dict[str, Any]]) -> list[Event]:
        """Tell more of the text, and what the model made of its tokens."""
        part = self.record["content"][0]
        part["text"] += piece
        part["logprobs"] += logprobs
        return [self._of_part("response.output_text.delta", delta=piece, logprobs=logprobs)]

    def end(self, status: ItemStatus) -> list[Event]:
        """Tell the whole text."""
        part = dict(self.record["content"][0])
        done = self._of_part("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
        return [done, self._of_part("response.content_part.done", part=part), *super().end(status)]


class Thinking(Item):
    """What is thought."""

    sealing = False
    """Whether it is also told as what a client may bring back instead."""

    def __init__(self, index: int, identity: str, kind: str) -> None:
        super().__init__(index, identity, kind)
        self.record |= {"summary": [], "content": []}

    def begin(self) -> list[Event]:
        """Tell that it is there, and its one part."""
        events = super().begin()
        part = {"type": "reasoning_text", "text": ""}
        self.record["content"].append(part)
        return [*events, self._of_part("response.content_part.added", part=dict(part))]

    def grow(self, piece: str) -> list[Event]:
        """Tell more of it."""
        self.record["content"][0]["text"] += piece
        return [self._of_part("response.reasoning_text.delta", delta=piece)]

    def end(self, status: ItemStatus) -> list[Event]:
        """Tell all of it."""
        part = dict(self.record["content"][0])
        done = self._of_part("response.reasoning_text.done", text=part["text"])
        if self.sealing:
            self.record["encrypted_content"] = sealed_text(part["text"])
        return [done, self._of_part("response.content_part.done", part=part), *super().end(status)]


class Called(Item):
    """A function that the client is to call."""

    def __init__(self, index: int, identity: str, kind: str, call: str, name: str) -> None:
        super().__init__(index, identity, kind)
        self.record |= {"call_id": call, "name": name, "arguments": ""}

    def grow(self, piece: str) -> list[Event]:
        """Tell more of the arguments."""
        self.record["arguments"] += piece
        return [self._event("response.function_call_arguments.delta", item_id=self.record["id"], delta=piece)]

    def end(self, status: ItemStatus) -> list[Event]:
        """Tell all of them."""
        told = {"item_id": self.record["id"], "name": self.record["name"], "arguments": self.record["arguments"]}
        return [self._event("response.function_call_arguments.done", **told), *super().end(status)]


class CustomCalled(Item):
    """A custom tool that the client is to call."""

    def __init__(self, index: int, identity: str, kind: str, call: str, name: str) -> None:
        super().__init__(index, identity, kind)
        self.record |= {"call_id": call, "name": name, "input": ""}

    def grow(self, piece: str) -> list[Event]:
        """Tell more of what it is called with."""
        self.record["input"] += piece
        return [self._event("response.custom_tool_call_input.delta", item_id=self.record["id"], delta=piece)]

    def end(self, status: ItemStatus) -> list[Event]:
        """Tell all of it."""
        told = {"item_id": self.record["id"], "input": self.record["input"]}
        return [self._event("response.custom_tool_call_input.done", **told), *super().end(status)]


class Sealed(Item):
    """What only a provider can read of its thoughts: nothing of it grows."""

    def __init__(self, index: int, identity: str, data: str) -> None:
        super().__init__(index, identity, "reasoning")
        self.record |= {"summary": [], "encrypted_content": data}
