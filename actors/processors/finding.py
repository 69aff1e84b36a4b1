"""Tools and skills that are found when they are needed, so that prompts stay short however many there are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import yaml
from msgspec.structs import replace

from actors.errors import DefinitionError
from actors.processors.processor import About, Processor
from actors.processors.skill_files import files_of, part_of
from actors.tools import Tool, tool
from schemas.messages import Message, ToolSpec

SEARCH = "search_tools"
READ = "read_skill"
READ_FILE = "read_skill_file"
_WORD = re.compile(r"\w+")
_SMALL = frozenset(
    re.findall(r"\w+", "a an and are can do does for from how i in is it me my of on or tell that the to what with you")
)
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n(.*))?\Z", re.DOTALL)


@dataclass(frozen=True)
class ToolSearch(Processor):
    """Shows the model a tool that finds tools, and of the others only those that it found in this run.

    Give the agent `tools=search.tools` and `processors=(search,)`.

    Raises:
        DefinitionError: there are no tools, or one is called as the search is.
    """

    among: Sequence[Tool] = ()
    count: int = 5
    """Tools that a search finds at most."""
    always: Sequence[str] = ()
    """Names of those that are always shown."""
    name: str = "tool-search"

    def __post_init__(self) -> None:
        if not self.among or any(found.name == SEARCH for found in self.among):
            raise DefinitionError(f"{self.name}: give tools to be found, none of them called {SEARCH!r}")

    @property
    def tools(self) -> tuple[Tool, ...]:
        """What the agent gets: the search, and all that it may find."""
        among, count = self.among, self.count

        @tool(name=SEARCH, effect="pure")
        def search(query: str) -> list[str]:
            """Find tools by what they do; those that are found can be called from the next step on."""
            return [found.name for found in _ranked(among, query)[:count]]

        return (search, *self.among)

    def tools_shown(self, tools: Sequence[ToolSpec], messages: Sequence[Message]) -> Sequence[ToolSpec]:
        """Give those that were found since the user spoke last, and those that always are."""
        found = {SEARCH, *self.always} | _found(messages)
        known = {one.name for one in self.among}
        return tuple(spec for spec in tools if spec.name in found or spec.name not in known)


def _ranked(tools: Sequence[Tool], query: str) -> list[Tool]:
    wanted = set(_WORD.findall(query.lower())) - _SMALL
    scores = [(len(wanted & _words(one)), -at, one) for at, one in enumerate(tools)]
    return [one for score, _, one in sorted(scores, key=lambda item: (-item[0], -item[1])) if score]


def _words(one: Tool) -> set[str]:
    return set(_WORD.findall(f"{one.name.replace('_', ' ').replace('-', ' ')} {one.description}".lower()))


def _found(messages: Sequence[Message]) -> set[str]:
    """Read from a run's messages which tools it has found."""
    turns = [at for at, message in enumerate(messages) if message.role == "user"]
    searches: set[str] = set()
    names: set[str] = set()
    for message in messages[turns[-1] if turns else 0 :]:
        searches |= {call.id for call in message.tool_calls if call.name == SEARCH}
        if message.role == "tool" and message.tool_call_id in searches:
            try:
                names |= set(msgspec.json.decode(message.content, type=list[str]))
            except msgspec.DecodeError:
                continue
    return names


@dataclass(frozen=True)
class Skill:
    """A folder with a SKILL.md: what it is for, and how it is done."""

    name: str
    description: str
    body: str = field(repr=False)
    folder: Path = field(default=Path(), repr=False)
    files: tuple[str, ...] = ()
    """Those beside it that can be read."""

    @property
    def told(self) -> str:
        """What the model reads of it."""
        if not self.files:
            return self.body
        return f"{self.body}\n\nFiles beside it, to be read with `{READ_FILE}`:\n" + "\n".join(self.files)


@dataclass(frozen=True)
class Skills(Processor):
    """Tells the model which skills there are, in a line each; it reads one, and files beside it, by tools.

    Give the agent `tools=skills.tools` and `processors=(skills,)`.

    Raises:
        DefinitionError: there is no such folder, no SKILL.md below it, one without name and description, or two of one
            name.
    """

    folder: str | Path = ""
    name: str = "skills"
    found: tuple[Skill, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        files = sorted(Path(self.folder).glob("*/SKILL.md"))
        if not files:
            raise DefinitionError(f"{self.name}: no */SKILL.md in {str(self.folder)!r}")
        found = tuple(_skill(file) for file in files)
        twice = [name for name, count in Counter(skill.name for skill in found).items() if count > 1]
        if twice:
            raise DefinitionError(f"{self.name}: two skills are called {twice[0]!r} in {str(self.folder)!r}")
        object.__setattr__(self, "found", found)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """What the agent gets: a tool that reads a skill, and where there are files beside one, a tool for them."""

        @tool(name=READ, effect="pure")
        def read(name: str) -> str:
            """Read how something is done, before doing it."""
            return self._skill(name).told

        @tool(name=READ_FILE, effect="pure")
        def read_file(name: str, path: str, start: int = 0) -> str:
            """Read a file that a skill speaks of.

            Args:
                name: of the skill.
                path: of the file, as the skill has it.
                start: the character to read from, where not all was read at once.
            """
            return part_of(self._skill(name).folder, path, start)

        return (read, read_file) if any(skill.files for skill in self.found) else (read,)

    def _skill(self, name: str) -> Skill:
        for skill in self.found:
            if skill.name == name:
                return skill
        raise LookupError(f"no skill {name!r}: there are {', '.join(sorted(skill.name for skill in self.found))}")

    async def prompt(self, messages: Sequence[Message], about: About) -> Sequence[Message]:
        """Add the list to the instructions, where it stays the same."""
        lines = "\n".join(f"- {skill.name}: {skill.description}" for skill in self.found)
        listed = f"Skills, to be read with `{READ}` before they are needed:\n{lines}"
        if messages and messages[0].role == "system":
            return (replace(messages[0], content=f"{messages[0].content}\n\n{listed}"), *messages[1:])
        return (Message(role="system", content=listed), *messages)


def _skill(file: Path) -> Skill:
    try:
        found = _FRONT.match(file.read_text(encoding="utf-8-sig"))
        fields = yaml.safe_load(found[1]) if found else None
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise DefinitionError(f"{str(file)!r} cannot be read: {error}") from error
    told = fields if isinstance(fields, dict) else {}
    name, description = (" ".join(str(told.get(field) or "").split()) for field in ("name", "description"))
    if found is None or not name or not description:
        raise DefinitionError(f"{str(file)!r} must begin with `---`, `name:`, `description:` and `---`")
    return Skill(name, description, (found[2] or "").strip(), file.parent, files_of(file.parent))
