"""Files beside a SKILL.md: the model reads them, and nothing that lies outside, is hidden, or is no text."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from actors.errors import BadArguments
from actors.processors.finding import READ, READ_FILE, Skills
from actors.processors.skill_files import LONGEST_FILE, LONGEST_PART, MOST_FILES
from actors.tools import ToolContext

pytestmark = pytest.mark.anyio

LONG = "é" * LONGEST_PART + "end"
CONTEXT = ToolContext("a", "t", "k", 0, {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    skills = tmp_path / "skills"
    (skills / "sums" / "tables").mkdir(parents=True)
    (skills / "sums" / "SKILL.md").write_text("---\nname: sums\ndescription: How to add.\n---\nSee tables/ten.md.\n")
    (skills / "sums" / "tables" / "ten.md").write_text("\ufeff1 + 9 = 10\n")
    (skills / "other").mkdir()
    (skills / "other" / "SKILL.md").write_text("---\nname: other\ndescription: Another.\n---\nOther.\n")
    (tmp_path / "secret").write_text("nobody reads this")
    return skills


@pytest.fixture
def ill(folder: Path) -> Path:
    """The folder, with all that is not to be read."""
    sums = folder / "sums"
    (sums / "link").symlink_to(folder.parent / "secret")
    (sums / "around").symlink_to(folder.parent)
    (sums / "loop").symlink_to("loop")
    (sums / ".env").write_text("KEY=1")
    (sums / ".git").mkdir()
    (sums / ".git" / "config").write_text("url")
    (sums / "seen").symlink_to(".env")
    (sums / "short").symlink_to("tables/ten.md")
    (sums / "long").write_text(LONG)
    (sums / "huge").write_bytes(b"a" * (LONGEST_FILE + 1))
    (sums / "picture").write_bytes(b"\x89PNG\xff")
    os.mkfifo(sums / "pipe")
    return folder


async def read(folder: Path, path: str, **more: Any) -> str:
    _, read_file = (await asyncio.to_thread(Skills, folder)).tools
    assert read_file.name == READ_FILE
    return (await read_file.call(json.dumps({"name": "sums", "path": path, **more}), CONTEXT)).content


async def test_a_skill_names_its_files_and_the_model_reads_one(folder: Path) -> None:
    skills = await asyncio.to_thread(Skills, folder)
    told = (await skills.tools[0].call('{"name": "sums"}', CONTEXT)).content
    assert told == f"See tables/ten.md.\n\nFiles beside it, to be read with `{READ_FILE}`:\ntables/ten.md"
    assert (await skills.tools[0].call('{"name": "other"}', CONTEXT)).content == "Other."
    assert await read(folder, "tables/ten.md") == "1 + 9 = 10\n"
    assert await read(folder, "./tables/../tables/ten.md") == "1 + 9 = 10\n"


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../../secret",
            "tables/../../../secret",
            "/etc/passwd",
            "../other/SKILL.md",
            "link",
            "around/secret",
            "loop",
        ),
        *("", ".", "..", "tables", "tables/none", "a\0b", ".env", ".git/config", "seen", "x" * 5000, "pipe", "~/x"),
    ],
)
async def test_what_is_outside_hidden_or_no_file_is_not_there(ill: Path, path: str) -> None:
    with pytest.raises(LookupError, match="there is no file") as refused:
        await read(ill, path)
    assert str(refused.value) == f"there is no file {path[:200]!r} in this skill's folder"


def test_what_cannot_be_read_is_not_listed(ill: Path) -> None:
    _, sums = Skills(ill).found
    assert sums.files == ("huge", "long", "picture", "short", "tables/ten.md")


async def test_a_link_to_a_file_of_the_folder_is_that_file(ill: Path) -> None:
    assert await read(ill, "short") == "1 + 9 = 10\n"


async def test_a_long_file_is_read_in_parts_and_one_that_is_too_long_or_no_text_is_not(ill: Path) -> None:
    first = await read(ill, "long")
    assert first == f"{LONG[:LONGEST_PART]}\n[3 more characters: read on with start={LONGEST_PART}]"
    assert await read(ill, "long", start=LONGEST_PART) == "end"
    for start in (-1, len(LONG), 10**12):
        with pytest.raises(ValueError, match="start"):
            await read(ill, "long", start=start)
    with pytest.raises(BadArguments):
        await read(ill, "long", start="x")
    with pytest.raises(ValueError, match="longer than"):
        await read(ill, "huge")
    with pytest.raises(ValueError, match="no text"):
        await read(ill, "picture")


def test_without_files_there_is_no_tool_for_them_and_of_many_some_are_listed(folder: Path) -> None:
    for number in range(MOST_FILES + 5):
        (folder / "sums" / f"{number:03}.md").write_text("x")
    assert len(Skills(folder).found[1].files) == MOST_FILES
    for file in [*(folder / "sums").glob("*.md"), folder / "sums" / "tables" / "ten.md"]:
        if file.name != "SKILL.md":
            file.unlink()
    assert [one.name for one in Skills(folder).tools] == [READ]
