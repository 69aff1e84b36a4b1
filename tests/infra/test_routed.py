"""Which models elsewhere are listed."""

from __future__ import annotations

from actors.agent.definition import Agent
from infra.routed import routed_models
from infra.settings import ModelSettings
from schemas.models import ModelEntry


def test_nothing_is_listed_without_a_key() -> None:
    agents = [Agent("elsewhere", "Be brief.", model="openai/gpt-4o")]
    assert routed_models(ModelSettings(default="anthropic/claude-sonnet-5"), agents, {}) == ()


def test_what_is_named_comes_first_and_then_what_has_a_price() -> None:
    settings = ModelSettings(
        default="openai/my-own",
        chains={
            "careful": (ModelEntry("openai/gpt-4o"), "ostinato-mini"),
            "broken": ("anthropic/claude-x", "openai/gpt-4o"),
        },
        providers={"mine": {"url": "http://10.0.0.7/v1", "keyless": True}},
    )
    agents = [Agent("a", "?", model="mine/small"), Agent("b", "?")]
    found = routed_models(settings, agents, {"OPENAI_API_KEY": "k"})
    assert found[:4] == ("careful", "openai/my-own", "openai/gpt-4o", "mine/small")
    assert "openai/gpt-4o-mini" in found
    assert all(name == "careful" or name.startswith(("openai/", "mine/")) for name in found)
    assert not any("*" in name for name in found)
    assert len({*found}) == len(found)
