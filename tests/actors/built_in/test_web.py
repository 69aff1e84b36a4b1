"""Reading the web: what is reached and what is not, and what a model gets to read."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from actors.built_in.web import Fetcher, Page, readable, resolved, web_fetch
from actors.errors import DefinitionError, PageRefused
from actors.outward import is_public
from actors.tools import ToolContext

pytestmark = pytest.mark.anyio

HTML = b"<html><title>T</title><script>x()</script><h1>Hi</h1><p>a <b>b</b></p></html>"


class Site:
    """A server on loopback that answers each path as it is told, and notes what it was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ")[1]
        host = next(line.split(": ", 1)[1] for line in head.splitlines() if line.lower().startswith("host: "))
        self.asked.append((host, path))
        writer.write(self.pages[path])
        await writer.drain()
        writer.close()

    def fetcher(self, **about: object) -> Fetcher:
        """One that takes every name for this server, and this server's address for one of the internet's."""

        async def here(host: str, _port: int) -> Sequence[str]:
            return ["10.0.0.1"] if host == "inside.test" else ["127.0.0.1"]

        return Fetcher(resolve=here, allowed=lambda address: address == "127.0.0.1", **about)  # type: ignore[arg-type]


def answer(body: bytes, kind: str = "text/html; charset=utf-8", status: str = "200 OK", more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{more}connection: close\r\n\r\n"
    )
    return head.encode() + body


def leading_to(url: str) -> bytes:
    return answer(b"", status="302 Found", more=f"location: {url}\r\n")


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    site = Site()
    async with await asyncio.start_server(site.serve, "127.0.0.1", 0, ssl=tls) as server:
        site.port = server.sockets[0].getsockname()[1]
        yield site


PRIVATE = (
    *("127.0.0.1", "10.1.1.1", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("::1", "fe80::1", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::"),
)


@pytest.mark.parametrize("address", PRIVATE)
async def test_no_private_address_is_reached(address: str) -> None:
    async def there(_host: str, _port: int) -> Sequence[str]:
        return ["8.8.8.8", address]

    assert not is_public(address)
    with pytest.raises(PageRefused, match="not public"):
        await Fetcher(resolve=there).fetch("http://named.test/")
    literal = f"[{address}]" if ":" in address else address
    with pytest.raises(PageRefused, match="not public"):
        await Fetcher().fetch(f"http://{literal}/")


def test_addresses_of_the_internet_are_public() -> None:
    assert all(map(is_public, ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8")))


async def test_the_system_is_asked_for_the_addresses_of_a_name() -> None:
    assert "127.0.0.1" in await resolved("localhost", 80)
    for name in ("localhost", "2130706433", "0x7f.1"):
        with pytest.raises(PageRefused, match=r"not public|not known"):
            await Fetcher().fetch(f"http://{name}/")


@pytest.mark.parametrize(
    "url", ["ftp://a.test/", "file:///etc/passwd", "a.test", "http://", "http://me:secret@a.test/", "http://[/"]
)
async def test_what_is_no_address_of_the_web_is_refused(url: str) -> None:
    with pytest.raises(PageRefused) as refused:
        await Fetcher().fetch(url)
    assert "secret" not in str(refused.value)


async def test_a_page_is_read_from_the_address_that_was_judged_under_its_own_name() -> None:
    async with serving() as site:
        site.pages = {"/a?b=c": answer(HTML)}
        page = await site.fetcher().fetch(f"http://named.test:{site.port}/a?b=c")
        assert page == Page(f"http://named.test:{site.port}/a?b=c", "text/html", HTML.decode(), cut=False)
        assert site.asked == [(f"named.test:{site.port}", "/a?b=c")]
    assert readable(page) == "T\n\n# Hi\n\na **b**"


async def test_every_redirect_is_judged() -> None:
    async with serving() as site:
        site.pages = {
            "/out": leading_to("/end"),
            "/in": leading_to(f"http://inside.test:{site.port}/end"),
            "/file": leading_to("file:///etc/passwd"),
            "/round": leading_to("/round"),
            "/end": answer(b"the end", "text/plain"),
        }
        fetcher, start = site.fetcher(), f"http://named.test:{site.port}"
        assert (await fetcher.fetch(f"{start}/out")).text == "the end"
        for path, why in (("/in", "'inside.test' has an address that is not"), ("/file", "file"), ("/round", "leads")):
            with pytest.raises(PageRefused, match=why):
                await fetcher.fetch(start + path)
        with pytest.raises(PageRefused, match="may not be read from"):
            await site.fetcher(hosts=("*.example.org",)).fetch(start)
    assert len(site.asked) == 2 + 1 + 1 + 6


def certified(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make what a server called `named.test` shows, and what knows it by that."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, day = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "named.test")]), timedelta(days=1)
    begun = datetime(2020, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begun)
        .not_valid_after(begun + 36_500 * day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("named.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(Encoding.PEM)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "both.pem").write_bytes(pem + secret)
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load_cert_chain(folder / "both.pem")
    return shown, ssl.create_default_context(cadata=pem.decode())


async def test_a_server_must_be_who_its_name_says_whatever_its_address(tmp_path: Path) -> None:
    shown, known = certified(tmp_path)
    async with serving(shown) as site:
        site.pages = {"/": answer(b"hello", "text/plain")}
        fetcher = site.fetcher(tls=known)
        assert (await fetcher.fetch(f"https://named.test:{site.port}/")).text == "hello"
        for made, host in ((fetcher, "other.test"), (site.fetcher(), "named.test")):
            with pytest.raises(PageRefused, match="cannot be reached"):
                await made.fetch(f"https://{host}:{site.port}/")
    assert len(site.asked) == 1


async def test_what_is_no_text_or_an_error_is_refused() -> None:
    async with serving() as site:
        site.pages = {
            "/picture": answer(b"x", "image/png"),
            "/bomb": answer(b"x", "text/html", more="content-encoding: gzip\r\n"),
            "/gone": answer(b"x", status="404 Not Found"),
            "/half": answer(b"x")[:-1],
            "/odd": answer("ä".encode("latin-1"), "text/plain; charset=nonsense"),
        }
        for path, why in (("/picture", "image/png"), ("/bomb", "no text"), ("/gone", "404"), ("/half", "broke off")):
            with pytest.raises(PageRefused, match=why):
                await site.fetcher().fetch(f"http://named.test:{site.port}{path}")
        assert (await site.fetcher().fetch(f"http://named.test:{site.port}/odd")).text == "\ufffd"
    with pytest.raises(PageRefused, match="cannot be reached"):
        await site.fetcher().fetch(f"http://named.test:{site.port}/")


async def test_a_model_reads_a_long_page_in_parts_and_no_more_than_is_allowed() -> None:
    async with serving() as site:
        site.pages = {"/": answer(b"abcdefghij" * 10, "text/plain")}
        tool = web_fetch(site.fetcher(most_bytes=25), most_chars=10)
        context = ToolContext("acme", "t1", "k", 0, {})
        url = f"http://named.test:{site.port}/"
        first = (await tool.call(f'{{"url": "{url}"}}', context)).content
        last = (await tool.call(f'{{"url": "{url}", "start": 20}}', context)).content
    assert (
        first
        == f"{url}\n\nabcdefghij\n[25 characters in all: go on with start=10]\n[only the first 25 bytes were read]"
    )
    assert last == f"{url}\n\nabcde\n[only the first 25 bytes were read]"
    assert (tool.effect, tool.timeout_s) == ("idempotent", 20.0)


def test_a_bound_that_shows_nothing_is_refused() -> None:
    with pytest.raises(DefinitionError, match="most_chars=0"):
        web_fetch(most_chars=0)
