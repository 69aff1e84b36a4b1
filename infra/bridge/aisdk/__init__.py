"""The AI SDK's UI message stream, version 1: what its `useChat` and its default transport speak."""
