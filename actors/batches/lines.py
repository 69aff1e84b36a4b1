"""Lines of batches, as OpenAI's clients write and read them. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from schemas import codec
from schemas.batches import BatchLine, LineProblem, Outcome
from schemas.errors import BadShape

_MOST_PROBLEMS: Final = 50
"""That are told."""
_LATE: Final[dict[Outcome, tuple[str, str]]] = {
    "cancelled": ("batch_cancelled", "the batch was cancelled before this request was answered"),
    "expired": ("batch_expired", "the batch's time was over before this request was answered"),
    "completed": ("internal_error", "the answer of this request is lost"),
}


def output_file(batch: str) -> str:
    """Name the file of a batch's answers."""
    return f"file-{batch}-out"


def error_file(batch: str) -> str:
    """Name the file of the errors that some of its lines came to."""
    return f"file-{batch}-err"


class LineAnswer(msgspec.Struct, frozen=True):
    """What a request came to."""

    status: int
    """As HTTP has it."""
    body: bytes
    """JSON."""

    @property
    def failed(self) -> bool:
        """Whether it is an error."""
        return self.status != 200


class Reading:
    """Reads a file line by line, and notes what is wrong with it."""

    def __init__(self, endpoint: str, most: int) -> None:
        """Begin.

        Args:
            endpoint: that of every line.
            most: lines that a batch may have.
        """
        self._endpoint = endpoint
        self._most = most
        self._names: set[str] = set()
        self.total = 0
        self.problems: list[LineProblem] = []

    def take(self, line: bytes) -> None:
        """Read the next line."""
        self.total += 1
        if len(self.problems) >= _MOST_PROBLEMS:
            return
        if self.total > self._most:
            if self.total == self._most + 1:
                message = f"the file has more than {self._most} requests: make several batches of it"
                self.problems.append(LineProblem("too_many_requests", message))
            return
        problem = self._wrong(line)
        if problem is not None:
            self.problems.append(msgspec.structs.replace(problem, line=self.total))

    def over(self) -> tuple[LineProblem, ...]:
        """Say what is wrong with the file."""
        if not self.total:
            self.problems.append(LineProblem("empty_file", "the file has no requests: give one a line"))
        return tuple(self.problems)

    def _wrong(self, line: bytes) -> LineProblem | None:
        try:
            read = read_line(line)
        except BadShape as error:
            return LineProblem("invalid_json_line", f"this line is no request: {error}")
        if read.custom_id in self._names:
            message = f"custom_id {read.custom_id!r} stands in an earlier line: give each its own"
            return LineProblem("duplicate_custom_id", message, param="custom_id")
        self._names.add(read.custom_id)
        if read.method != "POST":
            return LineProblem("invalid_method", f"method {read.method[:20]!r}: POST is the only one", param="method")
        if read.url != self._endpoint:
            message = f"url {read.url[:100]!r} is not the batch's endpoint {self._endpoint!r}"
            return LineProblem("mismatched_endpoint", message, param="url")
        return None


def read_line(line: bytes) -> BatchLine:
    """Read a request.

    Raises:
        BadShape: it is none; says why.
    """
    read: BatchLine = codec.decode(line, BatchLine)
    return read


def answered(name: str, custom_id: str, answer: LineAnswer) -> bytes:
    """Write the line of an answer."""
    response = {"status_code": answer.status, "request_id": name, "body": msgspec.Raw(answer.body)}
    return _written(name, custom_id, response, None)


def unanswered(name: str, custom_id: str, outcome: Outcome) -> bytes:
    """Write the line of a request that was not answered."""
    code, message = _LATE[outcome]
    return _written(name, custom_id, None, {"code": code, "message": message})


def _written(name: str, custom_id: str, response: Any, error: Any) -> bytes:
    line = {"id": f"batch_req_{name}", "custom_id": custom_id, "response": response, "error": error}
    return codec.encode(line) + b"\n"
