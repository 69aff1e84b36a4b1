"""Which model a name means, what is told of one that cannot be asked, and the table of providers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from actors.models.asking import missing_model, unknown_model
from actors.models.breaker import Breaker
from actors.models.chain import Chained
from actors.models.guarded import Guarded
from actors.models.keys import Key, scrubbed
from actors.models.pricing import Pricing
from actors.models.registry import Registry, reach
from actors.models.remote import Outside
from actors.models.router import MOST_NAMES, Router
from actors.models.transport import Transport
from actors.testing import FixedClock, ScriptedModel
from schemas.generation import Sampling
from schemas.messages import Usage
from schemas.models import ModelChain, ModelEntry
from schemas.profiles import Profile
from tests.actors.models.calls import ENVIRONMENT, REGISTRY


async def nobody() -> Transport:
    raise AssertionError("nobody is asked here")


def router(environment: Mapping[str, str] = ENVIRONMENT, registry: Registry = REGISTRY) -> Router:
    clock = FixedClock()
    chains = {"careful": ModelChain((ModelEntry("openai/gpt-x"), ModelEntry("mini")))}
    engines = {"mini": ScriptedModel(lambda _: "here"), "org/big": ScriptedModel(lambda _: "big")}
    outside = Outside(nobody, environment, clock)
    return Router(engines, registry, outside, chains, lambda: Breaker(clock, 5, 30))


def test_a_name_is_an_engine_here_a_chain_or_a_model_elsewhere() -> None:
    models = router()
    assert models["mini"] is models["local/mini"]
    assert models["org/big"] is models["local/org/big"]
    assert isinstance(models["careful"], Chained)
    elsewhere = models["openrouter/openai/gpt-x"]
    assert isinstance(elsewhere, Guarded)
    assert elsewhere.name == "openrouter/openai/gpt-x"
    assert models["openrouter/openai/gpt-x"] is elsewhere
    assert models["gemini/x"].name == "google/x"  # type: ignore[attr-defined]
    assert list(models) == ["mini", "org/big", "careful"]
    for name in ("mini", "local/mini", "careful", "openai/gpt-x", "groq/a/b"):
        assert name in models
    for name in ("nothing", "local/nothing", "nobody/x", "openai/", "openai"):
        assert name not in models
        assert models.get(name) is None


def test_of_the_many_names_that_requests_may_make_up_the_latest_used_are_kept() -> None:
    models = router()
    used, first = models["openai/used"], models["openai/first"]
    for n in range(MOST_NAMES):
        assert models["openai/used"] is used
        assert models[f"openai/made-up-{n}"]
    assert models["openai/used"] is used
    assert models["openai/first"] is not first
    assert len(models._found) == MOST_NAMES


def test_what_cannot_be_asked_is_told_with_its_mend() -> None:
    models = router({})
    assert "did you mean 'openai'?" in unknown_model("opnai/gpt-x", models).message
    assert "this server has careful, mini, org/big" in unknown_model("nothing", models).message
    missing = unknown_model("anthropic/claude-x", models)
    assert (missing.kind, missing.field) == ("key", "ANTHROPIC_API_KEY")
    assert "GEMINI_API_KEY or GOOGLE_API_KEY" in unknown_model("google/x", models).message
    assert "AZURE_RESOURCE_NAME" in unknown_model("azure/x", router({"AZURE_API_KEY": "k" * 20})).message
    assert "OPENAI_API_KEY" in unknown_model("careful", models).message


def test_a_chain_is_refused_for_any_part_that_cannot_be_asked() -> None:
    chain = ModelChain((ModelEntry("mini"), ModelEntry("anthropic/claude-x")))
    profile = Profile("a", "mini", "", (), Sampling(), 1, chain=chain)
    assert missing_model(profile, router()) is None
    missing = missing_model(profile, router({}))
    assert missing is not None
    assert missing.field == "ANTHROPIC_API_KEY"


def test_headers_of_an_entry_name_variables_that_are_there_and_a_model_that_is_sent_them() -> None:
    def explained(model: str, value: str) -> tuple[str, str | None]:
        chain = ModelChain((ModelEntry("mini"), ModelEntry(model, headers={"X-Team": value})))
        problem = router().explain_all(chain)
        return ("", None) if problem is None else (problem.kind, problem.field)

    assert explained("openai/gpt-x", "search") == ("", None)
    assert explained("openai/gpt-x", "${OPENAI_API_KEY}") == ("", None)
    assert explained("openai/gpt-x", "${NOT_THERE}") == ("key", "NOT_THERE")
    assert explained("mini", "search") == ("invalid", "headers")


@pytest.mark.parametrize(
    ("name", "binds"),
    [
        ("mini", "grammar"),
        ("local/org/big", "grammar"),
        ("openai/gpt-x", "schema"),
        ("deepseek/m", "object"),
        ("bedrock/m", "none"),
        ("careful", "schema"),
    ],
)
def test_it_is_known_what_an_answer_can_be_bound_to(name: str, binds: str) -> None:
    assert router().binds(name) == binds


def test_the_table_has_many_providers_each_well_formed() -> None:
    assert len(REGISTRY) >= 50
    names: list[str] = []
    for name in REGISTRY:
        provider = REGISTRY.named(name)
        names += [name, *provider.also]
        assert re.fullmatch(r"https?://[^\s/]+\S*[^/]", provider.url), name
        assert provider.url.startswith("https://") or provider.keyless, name
        assert all(re.fullmatch(r"[A-Z0-9_]+", key) for key in provider.keys), name
        assert provider.keys or provider.keyless, name
        assert re.fullmatch(r"[a-z0-9.-]+", name)
    assert len(set(names)) == len(names)
    wires = {REGISTRY.named(name).wire for name in REGISTRY}
    assert wires == {"chat", "azure", "anthropic", "gemini", "bedrock", "vertex"}


@pytest.mark.parametrize("name", [name for name in REGISTRY if REGISTRY.named(name).wire != "bedrock"])
def test_every_provider_can_be_reached_with_its_first_variable(name: str) -> None:
    environment = {**ENVIRONMENT, "CLOUDFLARE_ACCOUNT_ID": "1", "DATABRICKS_HOST": "d", "SNOWFLAKE_ACCOUNT": "s"}
    reached = reach(name, REGISTRY.named(name), "m", environment)
    assert "$" not in reached.url
    assert reached.key is not None or REGISTRY.named(name).keyless


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"openai": {"api_key": "sk"}}, "unknown field `api_key`"),
        ({"openai": {"wire": "soap"}}, "Invalid enum value 'soap'"),
        ({"new": {"keys": ["X"]}}, "give its `url`"),
    ],
)
def test_a_change_that_cannot_be_is_told(changes: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        REGISTRY.changed(changes)


def test_a_new_provider_needs_an_address_and_a_changed_one_keeps_the_rest() -> None:
    registry = REGISTRY.changed({"mine": {"url": "http://x/v1", "keyless": True}, "groq": {"url": "http://y/v1"}})
    assert registry.named("groq").keys == ("GROQ_API_KEY",)
    assert "mine/some/model" in router({}, registry)


def test_prices_are_of_prompt_answer_and_what_was_cached() -> None:
    usage = Usage(prompt_tokens=1_000_000, completion_tokens=100_000, cached_tokens=600_000, reasoning_tokens=50_000)
    pricing = Pricing(REGISTRY, {"mini*": (1.0, 2.0, 0.5), "deep": (0.0, 2.0, 0.0, 4.0)})
    assert pricing.cost("openai/gpt-4o", usage) == pytest.approx(0.4 * 2.5 + 0.6 * 1.25 + 0.1 * 10)
    assert pricing.cost("mini-2", usage) == pytest.approx(0.4 + 0.3 + 0.2)
    assert pricing.cost("deep", usage) == pytest.approx(0.1 + 0.2)


def test_a_price_that_is_not_known_is_none_and_never_nothing() -> None:
    pricing = Pricing(REGISTRY, {})
    for name in ("openai/unheard-of", "mini"):
        assert pricing.cost(name, Usage()) is None
        assert pricing.known_cost(name, Usage(5, 5)) == 0


def test_a_key_is_shown_by_nothing() -> None:
    key = Key.of("sk-canary-123456", "OPENAI_API_KEY")
    for shown in (repr(key), str(key), f"{key}", f"{[key]}"):
        assert "canary" not in shown
    assert key.reveal() == "sk-canary-123456"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("key sk-canary-0123456789 is bad", "key *** is bad"),
        ("key sk-canary-012... is bad", "key ***... is bad"),
        ("tail -0123456789", "tail ***"),
        ("sk-canary-0123456789sk-canary-0123456789", "***"),
        ("nothing of it", "nothing of it"),
        ("sk-cana", "sk-cana"),
    ],
)
def test_a_text_is_told_without_any_part_of_a_secret(text: str, told: str) -> None:
    assert scrubbed(text, ["sk-canary-0123456789"]) == told


def test_a_short_secret_is_hidden_where_it_stands_whole() -> None:
    assert scrubbed("pw=abc, ab", ["abc", ""]) == "pw=***, ab"
