"""`ostinato chat`: a conversation with an agent or a bare model of the running stack.

In a terminal with line editing, streamed answers, tool calls as they run and questions for approval; where the input
is no terminal every line is one message, and the output plain.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from actors.agent.loop import ConversationMachine
from actors.agent.run import Pending
from actors.agent.wishes import waiting
from actors.runtime.machine import Emitted
from bus.errors import BusError
from infra.access import runtime_of
from infra.cli.asking import (
    Partner,
    abort_command,
    agent_command,
    anybody,
    approval_command,
    for_agents,
    model_command,
    partner_of,
    served_by,
    unicode_text,
    wanted_of,
)
from infra.cli.hints import chat_on
from infra.cli.replay import show
from infra.cli.session import Session, session
from infra.cli.speech import Speech
from infra.cli.terminal import printable, prompt, style_for
from infra.errors import InfraError
from schemas import codec
from schemas.commands import Approve, Command, Deny
from schemas.live import Committed, Frame, Outcome
from schemas.messages import Message, ToolCall
from schemas.runs import ApprovalRequested

_TENANT = "default"
_KEPT_LINES = 1000
_HELP = """\
/new       begin a new thread
/thread    print this thread's id
/replay    show what happened in this thread (/replay --steps: with the engine's steps)
/quit      leave (so does Ctrl-D)
/abort     end the run that is under way in this thread
Ctrl-C     stop showing an answer; again: leave
"""


def main(options: argparse.Namespace) -> int:
    """Hold the conversation; exit code 1 when a message of a pipe had no answer."""
    served = served_by(runtime_of(options.data))
    partner = partner_of(options.partner or anybody(served), served)
    if partner.kind == "model" and (flag := next(for_agents(options), None)):
        sys.stderr.write(f"ostinato chat: {partner.name!r} is a bare model and keeps no thread: leave {flag} out\n")
        return 2
    interactive = sys.stdin.isatty() and sys.stdout.isatty() and not options.json
    with session(options.data, _notice) as line:
        chat = Chat(line, partner, options)
        if interactive:
            with line_editing(_history_file()):
                return _converse(chat)
        return _pipe(chat)


def _notice(text: str) -> None:
    sys.stderr.write(style_for(sys.stderr).aside(f"({text})") + "\n")


class Chat:
    """One partner, and the thread that is under way."""

    def __init__(self, line: Session, partner: Partner, options: argparse.Namespace) -> None:
        self.partner = partner
        self.thread: str | None = options.thread
        self.style = style_for(sys.stdout)
        self._line = line
        self._data: str = options.data
        self._wanted = wanted_of(options)
        self._json: bool = options.json
        self._history: list[Message] = []
        """What a bare model is told again each time."""
        self._shown: Command | None = None
        self._version = 0
        """Of the last event that was heard."""
        self.busy = False
        """Whether something that was begun is not over, as far as was shown."""
        self.unanswered = False
        """Whether a question for approval was left open: its run, and all that comes behind it, wait."""

    def say(self, text: str, *, approve: bool) -> bool:
        """Send a message and show the answer; say whether there was one.

        Args:
            text: the message.
            approve: whether somebody is there to be asked about tools that need approval.
        """
        self.busy = True
        if self.partner.kind == "agent":
            approvals: Literal["ask", "refuse"] = "ask" if approve else "refuse"
            command = agent_command(self.partner.name, text, self.thread, _TENANT, approvals, wanted=self._wanted)
            return self._hear(command, self._line.follow(command)) is not None
        message = Message(role="user", content=text)
        command = model_command(self.partner.name, [*self._history, message], _TENANT)
        answer = self._hear(command, self._line.follow(command))
        if answer is not None:
            self._history += [message, Message(role="assistant", content=answer)]
        return answer is not None

    def new(self) -> None:
        """Forget the thread; the log does not."""
        self.thread, self._history, self._shown, self.unanswered = None, [], None, False

    def unsettled(self) -> tuple[tuple[Pending, ...], int]:
        """List the tool calls of the thread that wait for approval, and their run's version."""
        if self.thread is None:
            return (), 0
        machine = ConversationMachine()
        state, versions = machine.initial(_TENANT, self.thread), dict[str, int]()
        for stored in self._line.events(_TENANT, self.thread):
            if stored.fact.kind in {"thread", "run"}:
                state = machine.evolve(
                    state, Emitted(stored.fact.kind, stored.fact.entity, codec.event_of(stored.fact))
                )
                versions[stored.fact.entity] = stored.fact.version
        return waiting(state, "approval"), versions.get(state.active or "", 0)

    def resume(self) -> None:
        """Settle what waits for approval in a thread that is continued, and show what follows."""
        self._until_recorded()
        items, version = self.unsettled()
        for item in items[:-1]:
            self._settle(item.effect, item.call.name, item.call.arguments)
        if items:
            last = items[-1]
            answer = self._answer(last.effect, last.call.name, last.call.arguments)
            command = approval_command(self.thread or "", answer, _TENANT)
            self._hear(command, self._line.follow(command, version), {item.effect: item.call for item in items})

    def replay(self, steps: bool) -> None:
        """Show the thread's timeline, as `ostinato replay show` does."""
        identity = self.thread if self.partner.kind == "agent" else self._shown and self._shown.thread
        if identity is None:
            sys.stdout.write("nothing was said yet\n")
            return
        self._until_recorded()
        show.main(
            argparse.Namespace(
                verb="show", id=identity, tenant=_TENANT, data=self._data, steps=steps, json=False, bundle=None
            )
        )

    def under_way(self) -> str:
        """Say what becomes of what is not over, in a sentence to go on from; empty when nothing is under way."""
        busy, self.busy = self.busy, False
        if self.unanswered:
            return "the call waits, and is asked about again; "
        return "what was begun goes on, /replay shows it, /abort ends it; " if busy else ""

    def abort(self) -> None:
        """End the run that is under way, and say so."""
        if self.thread is None or self.partner.kind != "agent":
            sys.stdout.write("nothing is under way\n")
            return
        outcome = self._line.send(abort_command(self.thread, tenant=_TENANT))
        if outcome.problem is not None:
            self.complain(outcome.problem.message)
            return
        self.unanswered = False
        sys.stdout.write(self.style.aside("aborted") + "\n")

    def how_to_continue(self) -> str:
        """Give the command line that goes on with the thread; empty when there is none."""
        if self.thread is None or self.partner.kind != "agent":
            return ""
        return f"continue with: {chat_on(self.partner.name, self.thread, self._data)}"

    def _hear(
        self, command: Command, frames: Iterable[Frame], wanted: Mapping[str, ToolCall] | None = None
    ) -> str | None:
        """Show a run or generation; return the model's last words, None when there is no answer."""
        speech = Speech(sys.stdout, self.style, wanted)
        try:
            for frame in frames:
                self._keep(command, frame)
                if self._json:
                    sys.stdout.write(codec.encode(frame).decode() + "\n")
                else:
                    speech.say(frame)
                sys.stdout.flush()
                speech.note(frame)
                if isinstance(frame, Committed) and frame.type == "approval.requested":
                    speech.end()
                    asked: ApprovalRequested = codec.decode(frame.data, ApprovalRequested)
                    self._settle(asked.effect, asked.call.name, asked.call.arguments)
        finally:
            if not self._json:
                speech.end()
                sys.stdout.flush()
        self.busy = False
        if speech.problem is not None:
            self.complain(speech.problem.message)
            return None
        return speech.text

    def _keep(self, command: Command, frame: Frame) -> None:
        if isinstance(frame, Outcome) and frame.result == "accepted" and command.kind == "agent":
            self.thread = command.thread
        if isinstance(frame, Committed):
            self._version = frame.version
            self._shown = command if command.verb in {"run", "generate"} else self._shown

    def _until_recorded(self) -> None:
        """Wait until what was heard can be read."""
        if self._shown is not None and self._version:
            kind = "run" if self.partner.kind == "agent" else "generation"
            self._line.until_recorded(_TENANT, kind, self._shown.id, self._version)

    def _settle(self, effect: str, name: str, arguments: str) -> None:
        answer = self._answer(effect, name, arguments)
        outcome = self._line.send(approval_command(self.thread or "", answer, _TENANT))
        if outcome.problem is not None:
            self.complain(outcome.problem.message)

    def _answer(self, effect: str, name: str, arguments: str) -> Approve | Deny:
        self.unanswered = True
        question = f"{self.style.name(printable(name))} {printable(arguments)}  run it? [y/n] "
        answer = _approved(question, effect, arguments)
        self.unanswered = False
        return answer

    def why(self, error: Exception) -> str:
        """Say what is wrong: that the stack was stopped, if it was, is the reason for anything else."""
        try:
            runtime_of(self._data)
        except InfraError as reason:
            return str(reason)
        return str(error)

    def complain(self, message: str) -> None:
        """Say what went wrong."""
        sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: {message}") + "\n")


def _approved(question: str, effect: str, arguments: str) -> Approve | Deny:
    """Ask until there is an answer.

    Raises:
        EOFError: nobody is there any more; the call goes on waiting.
    """
    while True:
        answer = input(prompt(question)).strip().lower()
        if answer in {"y", "yes"}:
            return Approve(effect=effect, arguments=arguments)
        if answer in {"n", "no"}:
            return Deny(effect=effect)


def _pipe(chat: Chat) -> int:
    """Take every line as a message, until the first without an answer."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    if chat.unsettled()[0]:
        chat.complain("a tool call of this thread waits for approval: answer it in a terminal")
        return 1
    for line in sys.stdin:
        if line.strip() and not chat.say(unicode_text(line.rstrip("\n")), approve=False):
            return 1
    if (hint := chat.how_to_continue()) and sys.stderr.isatty():
        sys.stderr.write(hint + "\n")
    return 0


def _converse(chat: Chat) -> int:
    """Ask, answer, and leave on Ctrl-D, `/quit` or a second Ctrl-C."""
    about = f"{chat.partner.name}: {'thread ' + chat.thread if chat.thread else 'a new thread'}"
    sys.stdout.write(chat.style.aside(f"{about}. /help lists commands, Ctrl-D leaves.") + "\n")
    interrupted, resuming = False, True
    while True:
        try:
            if resuming:
                resuming = False
                chat.resume()
            text = unicode_text(input(prompt(chat.style.name("you> "))))
            interrupted = False
            if not _handle(chat, text):
                break
        except KeyboardInterrupt:
            if interrupted:
                break
            interrupted = True
            sys.stdout.write("\n" + chat.style.aside(f"({chat.under_way()}Ctrl-C again or Ctrl-D leaves)") + "\n")
        except EOFError:
            break
        except (InfraError, BusError, TimeoutError) as error:
            chat.complain(chat.why(error))
    hint = chat.how_to_continue()
    sys.stdout.write("\n" + (chat.style.aside(hint) + "\n" if hint else ""))
    return 0


def _handle(chat: Chat, text: str) -> bool:
    """Do what one line says; return whether the conversation goes on."""
    match text.split():
        case []:
            pass
        case ["/quit" | "/exit"]:
            return False
        case ["/help"]:
            sys.stdout.write(_HELP)
        case ["/new"]:
            chat.new()
            sys.stdout.write(chat.style.aside("a new thread") + "\n")
        case ["/thread"]:
            sys.stdout.write(f"{chat.thread or 'no thread yet: say something first'}\n")
        case ["/abort"]:
            chat.abort()
        case ["/replay", *rest] if rest in ([], ["--steps"]):
            chat.replay(steps=bool(rest))
        case [word, *_] if text.startswith("/"):
            sys.stdout.write(_not_understood(word))
        case _:
            if chat.unanswered:
                chat.resume()
            chat.say(text, approve=True)
    return True


def _not_understood(word: str) -> str:
    if f"\n{word} " in f"\n{_HELP}":
        return f"{word} does not take that: /help says what it takes\n"
    return f"no command {word}: /help lists them (put a space before a message that begins with /)\n"


def _history_file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "ostinato" / "chat_history"


@contextlib.contextmanager
def line_editing(history: Path) -> Iterator[None]:
    """Edit lines as a shell does, and remember them; without readline, or a place to write, simply do not."""
    try:
        import readline  # noqa: PLC0415  not on every platform, and it takes over the terminal when imported
    except ImportError:
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(_KEPT_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            history.touch(mode=0o600)
            readline.write_history_file(history)
