"""`ostinato completion SHELL`: a script that asks this command what may come next.

One walk over the command line's own parser serves every shell; the scripts only carry words back and forth. Names of
agents and models come from the running stack, ids of threads from its record, and from neither when no stack runs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import NamedTuple

from infra.configuration import data_directory

_THREADS = 50
_CONVERSES = frozenset({"chat", "run", "abort"})
"""Commands that take the threads of agents alone, and not those of bare generations."""
_NAMES = frozenset({"fork"})
"""Commands whose `--thread` names one that is not there yet."""
_WAIT_S = 3.0

_BASH = """\
# ostinato: eval "$(ostinato completion bash)", or keep it in ~/.local/share/bash-completion/completions/ostinato
_ostinato_complete() {
    local IFS=$'\\n' answer
    answer=($("${COMP_WORDS[0]}" completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    COMPREPLY=("${answer[@]}")
}
complete -o default -F _ostinato_complete ostinato
"""
_ZSH = """\
#compdef ostinato
# ostinato: eval "$(ostinato completion zsh)", or keep it as _ostinato in a folder of $fpath
_ostinato_complete() {
    local -a answer
    answer=("${(@f)$(${words[1]} completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${answer[1]}" ]]; then compadd -a answer; else _files; fi
}
if [[ "${funcstack[1]}" == _ostinato ]]; then _ostinato_complete; else compdef _ostinato_complete ostinato; fi
"""
_FISH = """\
# ostinato: ostinato completion fish | source, or keep it as ~/.config/fish/completions/ostinato.fish
function __ostinato_complete
    set -l given (commandline -opc) (commandline -ct)
    $given[1] completion words -- $given[2..-1] 2>/dev/null
end
complete -c ostinato -a '(__ostinato_complete)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


class Place(NamedTuple):
    """Where on the command line the last word stands."""

    parser: argparse.ArgumentParser
    option: argparse.Action | None
    """The option whose value the word is."""
    argument: argparse.Action | None
    """The positional argument that the word is."""
    given: dict[str, str]
    """Options that were given a value before it."""


def main(options: argparse.Namespace) -> int:
    """Print a shell's script, or what may stand where the last of the words given stands."""
    if options.shell != "words":
        sys.stdout.write(_SCRIPTS[options.shell])
        return 0
    for word in candidates(options.parser(), options.words or [""]):
        sys.stdout.write(word + "\n")
    return 0


def candidates(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """List what the last word may become; nothing where the shell's own completion of paths should serve."""
    *before, last = words
    place = _place(parser, before)
    if place.option is not None:
        found = _values(place.option, place)
    elif last.startswith("-"):
        found = [name for action in _actions(place.parser) for name in action.option_strings if name.startswith("--")]
    else:
        found = _values(place.argument, place) if place.argument is not None else []
    return sorted({word for word in found if word.startswith(last)})


def _place(parser: argparse.ArgumentParser, words: Sequence[str]) -> Place:
    option: argparse.Action | None = None
    given: dict[str, str] = {}
    waiting = _positionals(parser)
    for word in words:
        if option is not None:
            given[option.dest], option = word, None
        elif word.startswith("-") and word != "-":
            option = _takes_value(parser, word)
        elif waiting and isinstance(waiting[0].choices, dict):
            chosen = waiting[0].choices.get(word)
            if chosen is None:
                return Place(parser, None, None, given)
            parser, waiting = chosen, _positionals(chosen)
        elif waiting and waiting[0].nargs not in {"*", "+"}:
            waiting = waiting[1:]
    return Place(parser, option, waiting[0] if waiting else None, given)


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    # argparse has no public way to list what a parser takes
    return [action for action in parser._actions if action.help != argparse.SUPPRESS]  # noqa: SLF001


def _positionals(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in _actions(parser) if not action.option_strings]


def _takes_value(parser: argparse.ArgumentParser, word: str) -> argparse.Action | None:
    named = next((action for action in _actions(parser) if word in action.option_strings), None)
    return None if named is None or named.nargs == 0 else named


def _values(action: argparse.Action, place: Place) -> Sequence[str]:
    if action.dest == "shell":
        return list(_SCRIPTS)
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    if action.dest == "thread" and _verb(place) in _NAMES:
        return []
    if action.dest in {"thread", "id", "ids", "a", "b"}:
        return _threads(_data(place), _verb(place) in _CONVERSES)
    if action.dest in {"agent", "partner"}:
        return _partners(_data(place))
    return []


def _data(place: Place) -> str:
    return data_directory(place.given.get("data"))


def _partners(data: str) -> list[str]:
    """Name the agents and models of the running stack."""
    from infra.access import runtime_of  # noqa: PLC0415  most words are completed without a stack
    from infra.cli.asking import AGENT_PREFIX, served_by  # noqa: PLC0415
    from infra.errors import InfraError  # noqa: PLC0415

    try:
        return [name.removeprefix(AGENT_PREFIX) for name in served_by(runtime_of(data))]
    except InfraError:
        return []


def _verb(place: Place) -> str:
    return place.parser.prog.rpartition(" ")[2]


def _threads(data: str, conversations: bool) -> list[str]:
    """Name the latest threads of the running stack; those of agents alone, or of bare generations too."""
    from bus.errors import BusError  # noqa: PLC0415  most words are completed without a stack
    from bus.projected import latest_threads  # noqa: PLC0415
    from bus.store import Store  # noqa: PLC0415
    from infra.access import runtime_of  # noqa: PLC0415
    from infra.errors import InfraError  # noqa: PLC0415

    async def latest(url: str) -> list[str]:
        async with asyncio.timeout(_WAIT_S), await Store.open(url) as store:
            if conversations:
                return [row.thread for row in await latest_threads(store, _THREADS, kind="agent")]
            return [line.thread for line in await store.threads(_THREADS)]

    try:
        return asyncio.run(latest(runtime_of(data).urls["postgres"]))
    except (InfraError, BusError, TimeoutError):
        return []
