"""What may be called what: an adapter has a name of its own."""

from __future__ import annotations

import pytest

from infra.configuration import ConfigurationWrong, configure
from infra.names import check_names

ELSEWHERE = {"pooling.model": "org/vectors", "models.chains": {"cheap": ["openai/gpt-4o-mini"]}}


def named(name: str) -> None:
    check_names(configure({"engine.name": "mini", "engine.adapters": {name: "/tmp"}, **ELSEWHERE}, None, {}).settings)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mini", "engine.name"),
        ("vectors", "pooling.name"),
        ("cheap", "models.chains"),
        ("openai/gpt-4o", "provider 'openai'"),
        ("agent/demo", "'demo' itself"),
        ("local/mini", "'mini' itself"),
        ("", "is no name"),
    ],
)
def test_an_adapter_that_is_called_as_something_else_is_refused(name: str, why: str) -> None:
    with pytest.raises(ConfigurationWrong) as refused:
        named(name)
    assert refused.value.key == "engine.adapters"
    assert str(refused.value).startswith(f"engine.adapters: {name!r} ")
    assert why in str(refused.value)
    assert str(refused.value).endswith("name the adapter otherwise")


@pytest.mark.parametrize("name", ["sql", "org/sql", "minis"])
def test_one_of_its_own_name_is_not(name: str) -> None:
    named(name)


def test_two_of_one_name_in_the_environment_are_refused() -> None:
    variable = "OSTINATO_ENGINE_ADAPTERS"
    found = configure({}, None, {variable: '{"a": "/one", "b": "/two"}'}).settings.engine.adapters
    assert found == {"a": "/one", "b": "/two"}
    with pytest.raises(ConfigurationWrong, match=f"{variable}: 'engine.adapters': 'a' is given twice"):
        configure({}, None, {variable: '{"a": "/one", "a": "/two"}'})
