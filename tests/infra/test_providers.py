"""How settings become the models of a process, and the page that tells of them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from actors.models.budgets import Budgeted
from actors.models.cache import Cached
from actors.models.chain import Chained
from actors.models.pricing import Priced
from actors.models.registry import Registry
from actors.models.sight import Unseeing
from actors.testing import FixedClock, ScriptedModel
from bus.connection import Connection
from bus.errors import Unavailable
from bus.store import Batch, Cursor, Store
from infra.configuration import ConfigurationWrong, configure
from infra.process import Status
from infra.providers import Models, keep_books, make_models
from infra.settings import ModelSettings, Settings
from schemas import codec
from schemas.messages import Usage
from schemas.models import Budget, ModelEntry, Spent
from schemas.runs import ModelReturned

PAGE = (Path(__file__).parents[2] / "docs" / "model-router.md").read_text(encoding="utf-8")


async def tell(spent: Spent) -> None:
    """Tell nobody."""


def models(settings: Settings) -> Models:
    return make_models({"mini": ScriptedModel(lambda _: "hi")}, settings.models, FixedClock(), tell, environment={})


def configured(folder: Path, text: str, **variables: str) -> Settings:
    file = folder / "my.toml"
    file.write_text(text, encoding="utf-8")
    return configure({}, str(file), variables).settings


def test_the_file_s_chains_budgets_and_providers_reach_the_router(tmp_path: Path) -> None:
    text = """
        [models]
        cache_answers = 5
        [models.chains]
        careful = ["mine/x", {model = "mini", retries = 2}]
        [[models.budgets]]
        scope = "run"
        tokens = 10
        [models.providers.mine]
        url = "http://localhost:1/v1"
        keyless = true
    """
    settings = configured(tmp_path, text)
    assert settings.models.chains["careful"] == ("mine/x", ModelEntry("mini", retries=2))
    assert settings.models.budgets == (Budget("run", tokens=10),)
    made = models(settings)
    assert isinstance(made.router["careful"], Chained)
    assert "mine/anything" in made.router
    kept = made.router["mini"]
    assert isinstance(kept, Cached)
    assert isinstance(kept.inner, Budgeted)
    assert made.ledger is not None


def test_without_settings_an_engine_here_is_asked_as_it_is() -> None:
    made = models(Settings())
    asked = made.router["mini"]
    assert isinstance(asked, Priced)
    assert isinstance(asked.inner, Unseeing)
    assert isinstance(asked.inner.inner, ScriptedModel)
    assert made.ledger is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[models.providers.openai]\napi_key = "sk-1"', "unknown field `api_key`"),
        ('[models.providers.mine]\nkeys = ["X"]', "give its `url`"),
        ("[models]\nchain = 1", "did you mean 'models.chains'?"),
        ('[[models.budgets]]\nscope = "week"', "Invalid enum value 'week'"),
        ("[models.chains]\na = [1]", "models.chains"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationWrong) as wrong:
        configured(tmp_path, text)
    assert said in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_the_environment_gives_what_has_parts_as_json() -> None:
    found = configure({}, None, {"OSTINATO_MODELS_CHAINS": '{"a": ["mini"]}', "OSTINATO_MODELS_DEFAULT": "openai/x"})
    assert found.settings.models.chains == {"a": ("mini",)}
    assert found.settings.models.default == "openai/x"
    with pytest.raises(ConfigurationWrong, match="OSTINATO_MODELS_CHAINS"):
        configure({}, None, {"OSTINATO_MODELS_CHAINS": "mini"})


def test_the_page_s_settings_are_ones_that_are_taken_and_its_python_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        configured(tmp_path, block)
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    assert names["elsewhere"].model == "openai/gpt-4o-mini"  # type: ignore[attr-defined]


def test_the_page_tells_of_every_provider_with_its_address_and_its_variables() -> None:
    registry = Registry.load()
    for name in registry:
        provider = registry.named(name)
        [row] = [line for line in PAGE.splitlines() if line.startswith((f"| `{name}` ", f"| `{name}` ("))]
        assert f"`{provider.url}`" in row
        assert all(f"`{variable}`" in row for variable in provider.keys)


@pytest.mark.anyio
@pytest.mark.servers
async def test_the_books_are_read_on_beside_the_first_calls_where_the_record_is_away(
    connection: Connection, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.providers._READ_S", 0.01)
    monkeypatch.setattr("infra.providers._AGAIN_S", 0.01)
    times = 0

    class Record:
        """Is away at first, and goes away once more in the middle."""

        async def opened(self) -> object:
            nonlocal times
            times += 1
            if times < 3:
                raise Unavailable("Postgres cannot be used")
            return self

        async def rows(self, sql: str, since: int, *place: int) -> list[object]:
            nonlocal times
            if place[:3] == (0, 0, 0):
                return await store.rows(sql, since, *place[:3], 2)
            if times == 3:
                raise Unavailable("gone again")
            return await store.rows(sql, since, *place[:3], 2)

        keys = None

    payload = codec.encode(ModelReturned("r1-1-m", "hi", "stop", Usage(7, 3), engine="mini"))
    rows = [(1, at, 0, "acme", "t1", "run", "r1", at, "model.returned", "c", at, "", None, payload, None)
            for at in range(1, 6)]  # fmt: skip
    await store.advance(await store.claim("EV", "w"), Batch(Cursor("EV", 1, 5, "h"), {"event": rows}, {}), "w")
    settings = Settings(models=ModelSettings(budgets=(Budget("tenant", tokens=1000),)))
    made = await asyncio.to_thread(models, settings)
    reading = await keep_books(made, connection, Record(), Status("agents", "agents-0"))  # type: ignore[arg-type]
    await asyncio.wait_for(reading, 5)
    assert made.ledger is not None
    assert made.ledger.statistics()[0]["tokens"] == 50
