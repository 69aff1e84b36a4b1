"""The wire formats by name."""

from __future__ import annotations

from collections.abc import Mapping

from actors.models.registry import WireName
from actors.models.wires.anthropic import AnthropicWire, VertexWire
from actors.models.wires.bedrock import BedrockWire
from actors.models.wires.chat import AzureWire, ChatWire
from actors.models.wires.gemini import GeminiWire
from actors.models.wires.responses import ResponsesWire
from actors.models.wires.wire import Wire

WIRES: Mapping[WireName, Wire] = {
    "chat": ChatWire(),
    "azure": AzureWire(),
    "anthropic": AnthropicWire(),
    "vertex": VertexWire(),
    "gemini": GeminiWire(),
    "bedrock": BedrockWire(),
    "responses": ResponsesWire(),
}
