"""Who sees no pictures is asked about none, and a chain goes on to who does."""

from __future__ import annotations

import pytest

from actors.errors import CallFailed, ProviderFailed
from actors.models.chain import Chained
from actors.models.provider import Piece
from actors.models.sight import LOST, Unseeing, with_pictures
from actors.models.wires.turns import said_and_shown
from actors.testing import ScriptedModel
from bus.errors import LogDamaged
from schemas.messages import Image, Message
from schemas.models import ModelChain, ModelEntry
from tests.actors.models.calls import asking

pytestmark = pytest.mark.anyio

KEPT = Image(blob="b1", size=3, key="00", media_type="image/png")
SHOWN = asking(Message("user", "See?", images=(KEPT,)), "And?")


async def silently(piece: Piece, /) -> None:
    """Take no text."""


async def test_an_engine_here_is_not_asked_and_the_next_of_a_chain_is() -> None:
    blind, seeing = ScriptedModel(lambda _: "blind"), ScriptedModel(lambda _: "a cat")
    models = {"mini": Unseeing("mini", blind), "openai/x": seeing}
    with pytest.raises(ProviderFailed, match="'mini' sees no images") as refused:
        await models["mini"].call(SHOWN, silently)
    assert (refused.value.problem.kind, refused.value.problem.field) == ("invalid", "messages")
    with pytest.raises(ProviderFailed):
        await models["mini"].search(SHOWN)
    chain = Chained(ModelChain((ModelEntry("mini"), ModelEntry("openai/x"))), models)
    assert (await chain.call(SHOWN, silently)).text == "a cat"
    assert not blind.calls
    assert (await models["mini"].call(asking("hi"), silently)).text == "blind"


async def test_pictures_are_put_in_whole_where_they_stand_and_nothing_else_changes() -> None:
    async def show(image: Image) -> Image:
        return Image(url=f"data:{image.media_type};base64,QUJD")

    call = await with_pictures(SHOWN, show)
    assert call.messages == (
        Message("user", "See?", images=(Image(url="data:image/png;base64,QUJD"),)),
        Message("user", "And?"),
    )
    assert await with_pictures(asking("hi"), show) == asking("hi")


async def test_a_picture_that_is_lost_ends_the_call_and_not_the_process() -> None:
    async def lost(image: Image) -> Image:
        raise LogDamaged("OBJ_BLOB", 0, f"payload {image.blob!r} is missing or altered")

    with pytest.raises(CallFailed, match=r"messages: an image cannot be shown.*'b1'") as failed:
        await with_pictures(asking(Message("user", "See?", images=(KEPT,))), lost)
    assert failed.value.problem.kind == "invalid"


async def test_of_an_earlier_turn_s_picture_that_is_lost_the_model_is_told_in_its_place() -> None:
    async def some(image: Image) -> Image:
        if image.blob == "gone":
            raise LogDamaged("OBJ_BLOB", 0, "it is missing")
        return Image(url="data:", rest=image.rest)

    gone = Image(blob="gone", rest=9)
    earlier = Message("user", "This: or that?", images=(Image(blob="a", rest=9), gone, Image(blob="b", rest=0)))
    call = await with_pictures(asking(earlier, "And?"), some)
    assert list(said_and_shown(call.messages[0])) == [
        "This:",
        Image(url="data:", rest=9 + len(LOST)),
        f"{LOST} or that?",
        Image(url="data:"),
    ]
    with pytest.raises(CallFailed):
        await with_pictures(asking("Hi", earlier), some)
