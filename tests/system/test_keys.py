"""Keys on a whole stack: made, used, revoked, outlived by a restart; and what one tenant sees of another."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.system.conftest import UpProcess, ask, start


@pytest.fixture(scope="module")
def guarded(system_folder: Path) -> Iterator[UpProcess]:
    """A stack that is reached from everywhere, so that it lets nobody in without a key."""
    up = start(system_folder / "guarded", "--host", "0.0.0.0")
    yield up
    assert up.stop() == 0


def url(up: UpProcess) -> str:
    return up.url.replace("0.0.0.0", "127.0.0.1")


def created(up: UpProcess, *argv: str) -> dict[str, Any]:
    done = up.cli("keys", "create", "--json", *argv)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def chat(up: UpProcess, key: str, thread: str | None = None, **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} | ({"X-Ostinato-Thread": thread} if thread else {})
    return httpx.post(f"{url(up)}/v1/chat/completions", json={**ask("hello"), **body}, headers=headers, timeout=60)


@pytest.mark.servers
def test_a_stack_that_is_reached_from_elsewhere_lets_nobody_in_without_a_key(guarded: UpProcess) -> None:
    assert httpx.get(f"{url(guarded)}/v1/models").status_code == 401
    assert httpx.get(f"{url(guarded)}/health").json() == {"status": "ok"}
    key = created(guarded, "--name", "ada")["key"]
    with openai.OpenAI(base_url=f"{url(guarded)}/v1", api_key=key) as client:
        answer = client.chat.completions.create(**ask("hello"))
        assert answer.choices[0].message.content
        assert answer._request_id
        with pytest.raises(openai.PermissionDeniedError):
            client.post("/../reset_prefix_cache", cast_to=object)
    with (
        openai.OpenAI(base_url=f"{url(guarded)}/v1", api_key="ost_made-up") as stranger,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        stranger.models.list()
    assert refused.value.request_id


@pytest.mark.servers
def test_a_revoked_key_opens_nothing_from_then_on(guarded: UpProcess) -> None:
    key = created(guarded)
    assert chat(guarded, key["key"]).status_code == 200
    done = guarded.cli("keys", "revoke", key["id"], "--reason", "leaked")
    assert done.returncode == 0, done.stderr
    assert chat(guarded, key["key"]).status_code == 401
    again = guarded.cli("keys", "revoke", key["id"])
    assert (again.returncode, "revoked already" in again.stderr) == (1, True)
    listed = {line["id"]: line for line in map(json.loads, guarded.cli("keys", "list", "--json").stdout.splitlines())}
    assert listed[key["id"]]["state"] == "revoked"
    assert key["key"] not in json.dumps(listed)


@pytest.mark.servers
def test_a_key_has_only_so_many_requests_at_once(guarded: UpProcess) -> None:
    narrow, wide = (created(guarded, *more)["key"] for more in (("--concurrent", "1"), ()))
    headers = {"authorization": f"Bearer {narrow}"}
    # a run that waits for somebody's approval is told of until it is over
    waiting = {"agent": "careful", "text": "What is 12 times 34?", "stream": True}
    with httpx.stream("POST", f"{url(guarded)}/api/runs", json=waiting, headers=headers, timeout=60) as first:
        assert first.status_code == 200
        second = chat(guarded, narrow)
        assert (second.status_code, second.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(second.headers["retry-after-ms"]) > 0
        assert chat(guarded, wide).status_code == 200
    end = time.monotonic() + 30
    while (again := chat(guarded, narrow)).status_code == 429:
        assert time.monotonic() < end
    assert again.status_code == 200


@pytest.mark.servers
def test_a_tenant_finds_nothing_of_another(guarded: UpProcess) -> None:
    ours, theirs = (created(guarded, "--tenant", name)["key"] for name in ("acme", "umbrella"))
    thread = chat(guarded, ours).headers["X-Ostinato-Thread"]
    assert chat(guarded, ours, thread).status_code == 200
    foreign, nobody = chat(guarded, theirs, thread), chat(guarded, theirs, "t-nobody")
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (404, "thread_not_found")
    told = foreign.json()["error"]["message"].replace(thread, "t-nobody")
    assert told == nobody.json()["error"]["message"]
    assert "X-Ostinato-Thread" not in foreign.headers


@pytest.mark.servers
def test_secrets_are_nowhere_on_the_disk(guarded: UpProcess) -> None:
    key = created(guarded)["key"]
    assert chat(guarded, key).status_code == 200
    for path in guarded.data.rglob("*"):
        if path.is_file() and path.stat().st_size < 64 << 20:
            assert key.encode() not in path.read_bytes(), path


@pytest.mark.servers
def test_keys_outlive_a_restart_and_are_served_over_tls(
    system_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(tmp_path)
    monkeypatch.setenv("OSTINATO_ACCESS_REQUIRED", "always")
    up = start(system_folder / "restarted")
    key = created(up)
    assert up.stop() == 0
    monkeypatch.setenv("OSTINATO_ACCESS_TLS_CERTIFICATE", str(certificate))
    up = start(system_folder / "restarted")
    try:
        assert up.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(certificate))
        trusting = httpx.Client(verify=trusted, headers={"authorization": f"Bearer {key['key']}"})
        assert trusting.get(f"{up.url}/v1/models").status_code == 200
        trusting.close()
    finally:
        assert up.stop() == 0


def self_signed(folder: Path) -> Path:
    """Make a certificate of this machine's address and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(made.public_bytes(pem) + plain)
    return path
