"""What proves to a provider who asks: a key in a header, a signature by AWS's own library, a token by Google's."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any
from urllib.parse import urlsplit

from actors.errors import CallFailed
from actors.models.google_access import GoogleAccess
from actors.models.registry import Reached
from actors.models.wires.wire import Request
from schemas.runs import Problem

_AWS_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


class Signer:
    """Proves to providers who asks."""

    def __init__(self) -> None:
        self._google = GoogleAccess()

    async def headers(self, reached: Reached, request: Request) -> dict[str, str]:
        """Give the headers that prove it.

        Raises:
            CallFailed: there is nothing to prove it with; the problem names the variables.
        """
        key, auth = reached.key, reached.provider.auth
        if key is None and auth == "google":
            token = await asyncio.to_thread(self._google.token, reached.name, reached.environment)
            return {"authorization": f"Bearer {token}"}
        if key is None:
            return await asyncio.to_thread(_by_aws, reached, request) if auth == "aws" else {}
        if auth in {"bearer", "aws", "google"}:
            return {"authorization": f"Bearer {key.reveal()}"}
        return {auth: key.reveal()}

    def secrets(self, reached: Reached) -> list[str]:
        """List what no text may hold."""
        found = list(reached.hidden) if reached.key is None else [reached.key.reveal(), *reached.hidden]
        if reached.provider.auth == "aws":
            found += [reached.environment[name] for name in _AWS_SECRETS if reached.environment.get(name)]
        if reached.provider.auth == "google":
            found += self._google.secrets()
        parts = urlsplit(reached.url)
        return found + [text for text in (parts.password, parts.username) if text]


def _by_aws(reached: Reached, request: Request) -> dict[str, str]:
    """Sign by Signature Version 4, with whatever credentials botocore finds where its users keep them."""
    try:
        auth, awsrequest, session = (
            importlib.import_module(f"botocore.{name}") for name in ("auth", "awsrequest", "session")
        )
    except ImportError:
        message = "provider 'bedrock' needs botocore: pip install 'ostinato[bedrock]'"
        raise CallFailed(Problem(kind="key", message=message)) from None
    credentials = _credentials(reached, session)
    unsigned = awsrequest.AWSRequest("POST", request.url, dict(request.headers), request.body)
    region = urlsplit(request.url).netloc.split(".")[1] if ".amazonaws.com" in request.url else _region(reached)
    auth.SigV4Auth(credentials, "bedrock", region).add_auth(unsigned)
    return {name.lower(): value for name, value in unsigned.headers.items() if name.lower() not in request.headers}


def _region(reached: Reached) -> str:
    return reached.environment.get("AWS_REGION") or reached.environment.get("AWS_DEFAULT_REGION") or "us-east-1"


def _credentials(reached: Reached, session: Any) -> Any:
    environment = reached.environment
    identity, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if identity and secret:
        credentials = importlib.import_module("botocore.credentials")
        return credentials.Credentials(identity, secret, environment.get("AWS_SESSION_TOKEN"))
    found = session.Session().get_credentials()
    if found is None:
        message = (
            "provider 'bedrock': its key is missing: set AWS_BEARER_TOKEN_BEDROCK, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, in the environment of `ostinato up`, or give AWS's tools a profile"
        )
        raise CallFailed(Problem(kind="key", message=message, field="AWS_ACCESS_KEY_ID"))
    return found.get_frozen_credentials()
