"""Access tokens of Google's cloud, by Google's own library: of a service account, or of whoever it finds."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from actors.errors import CallFailed
from actors.models.wires.failures import unreachable
from schemas.runs import Problem

_SCOPES: Final = ("https://www.googleapis.com/auth/cloud-platform",)
_FILE: Final = "GOOGLE_APPLICATION_CREDENTIALS"
_ASK_S: Final = 30.0


class _Answer(NamedTuple):
    """What the library wants of an answer."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class GoogleAccess:
    """Gives tokens, and new ones in the place of those that are over; for several threads."""

    def __init__(self) -> None:
        self._credentials: dict[str, Any] = {}
        self._one_at_a_time = threading.Lock()

    def token(self, name: str, environment: Mapping[str, str]) -> str:
        """Give a token that is not over. Blocks.

        Args:
            name: of the model, for problems.
            environment: `GOOGLE_APPLICATION_CREDENTIALS` names the file of a service account; without it the library
                looks where its users keep their credentials.

        Raises:
            CallFailed: there are no credentials, or Google gives no token for them.
            ProviderFailed: Google cannot be reached.
        """
        try:
            auth, exceptions = (importlib.import_module(f"google.auth{part}") for part in ("", ".exceptions"))
        except ImportError:
            message = "Vertex AI needs google-auth: pip install 'ostinato[vertex]'"
            raise CallFailed(Problem(kind="key", message=message)) from None
        file = environment.get(_FILE, "")
        with self._one_at_a_time:
            try:
                if file not in self._credentials:
                    self._credentials[file] = _found(auth, file)
                held = self._credentials[file]
                if not held.valid:
                    held.refresh(_ask)
            except exceptions.TransportError:
                raise unreachable(name, "no access token: Google cannot be reached") from None
            except (exceptions.GoogleAuthError, OSError, ValueError) as error:
                # what it says may hold parts of what was sent
                message = (
                    f"{name}: Google gives no access token ({type(error).__name__}): have {_FILE} name the file of a "
                    "service account for `ostinato up`, or use `gcloud auth application-default login`"
                )
                raise CallFailed(Problem(kind="key", message=message, field=_FILE)) from None
            return str(held.token)

    def secrets(self) -> list[str]:
        """List the tokens there are."""
        return [str(held.token) for held in list(self._credentials.values()) if held.token]


def _found(auth: Any, file: str) -> Any:
    """Read a service account; every other kind is what the library finds for itself, in the same file or elsewhere."""
    if file and b'"service_account"' in Path(file).read_bytes():
        account = importlib.import_module("google.oauth2.service_account")
        return account.Credentials.from_service_account_file(file, scopes=_SCOPES)
    return auth.default(scopes=_SCOPES)[0]


def _ask(
    url: str,
    method: str = "GET",
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
    **_: Any,
) -> _Answer:
    """Ask for the library, which brings no client of its own that speaks TLS."""
    httpx = importlib.import_module("httpx")  # only who asks Google needs it here
    try:
        answer = httpx.request(method, url, content=body, headers=dict(headers or {}), timeout=timeout or _ASK_S)
    except httpx.HTTPError as error:
        broken = importlib.import_module("google.auth.exceptions").TransportError
        raise broken(type(error).__name__) from None
    return _Answer(answer.status_code, answer.headers, answer.content)
