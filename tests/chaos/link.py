"""A bad network: TCP links to the servers that delay, lose, or hold what passes; a process of its own.

Called with the file that says where the servers are (`runtime.json`, read for each new connection: they move) and the
links as `NAME=SERVER`. It prints their ports as one line of JSON. Each line of its input sets the weather of a link,
`{"link": …, "delay_s": …}`, and is answered with one. It imports nothing of ours and ends with its input.

TCP never drops what it has taken, so a link that holds a direction gives it back late, as retransmissions do when a
network heals, or breaks the connection (`late` is false), as a gateway does that forgot it meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

CHUNK = 64 * 1024
UNDER_WAY = 64
"""Chunks of one direction that may be under way."""
RETRANSMITTED_S = (0.2, 0.6)
"""How long what is lost takes to come after all: TCP sends it again, and what follows waits for it."""
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Weather:
    """How a link is at the moment."""

    delay_s: float = 0.0
    """Of each chunk, in either direction."""
    loss: float = 0.0
    """The chance of a chunk to be lost once."""
    resets: float = 0.0
    """How often a second each connection breaks."""
    up: bool = True
    """Whether what the client sends arrives."""
    down: bool = True
    """Whether what the server sends arrives."""
    refuses: bool = False
    """Whether connections break at once, old and new."""
    late: bool = True
    """Whether what was held comes when the link heals; if not, the connections that there were break."""


@dataclass(slots=True)
class Way:
    """One direction of a link."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def set(self, flows: bool) -> None:
        """Let through or hold."""
        (self.opened.set if flows else self.opened.clear)()


class Link:
    """One port, and the connections through it."""

    def __init__(self, runtime: Path, server: str) -> None:
        self._runtime = runtime
        self._server = server
        self._weather = Weather()
        self._up, self._down = Way(), Way()
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}
        self._serving: asyncio.Server | None = None

    async def listen(self) -> int:
        """Begin; return the port."""
        self.change(self._weather)
        self._serving = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._serving.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """End, and break every connection."""
        if self._serving is not None:
            self._serving.close()
        self.change(Weather(refuses=True))
        await asyncio.gather(*filter(None, self._connections.values()))

    def change(self, weather: Weather) -> None:
        """Have another weather from now on."""
        held = not (self._weather.up and self._weather.down)
        if weather.refuses or (held and not self._weather.late):
            for writer in tuple(self._connections):
                _break(writer)
        self._weather = weather
        self._up.set(weather.up)
        self._down.set(weather.down)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections[writer] = asyncio.current_task()
        try:
            await self._connect(reader, writer)
        except OSError:
            pass  # one of the two is gone, and so is the other
        finally:
            del self._connections[writer]
            _break(writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._weather.refuses:
            return
        await self._up.opened.wait()  # a server that cannot be reached does not know of the connection
        port = json.loads(self._runtime.read_bytes())["ports"][self._server]
        there, back = await asyncio.open_connection("127.0.0.1", port)
        tasks = [
            asyncio.create_task(self._pass(reader, back, self._up)),
            asyncio.create_task(self._pass(there, writer, self._down)),
            asyncio.create_task(self._reset()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            _break(back)

    async def _reset(self) -> None:
        """End when the connection is to break."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if random.random() < self._weather.resets * _LOOK_S:
                return

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        """Pass one direction on, in order, until its end."""
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(UNDER_WAY)
        taking = asyncio.create_task(self._take(reader, chunks))
        try:
            while True:
                due, chunk = await chunks.get()
                await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
                await way.opened.wait()
                if not chunk:
                    return
                writer.write(chunk)
                await writer.drain()
        finally:
            taking.cancel()

    async def _take(self, reader: asyncio.StreamReader, chunks: asyncio.Queue[tuple[float, bytes]]) -> None:
        chunk = b"first"
        while chunk:
            try:
                chunk = await reader.read(CHUNK)
            except OSError:
                chunk = b""
            lost = random.uniform(*RETRANSMITTED_S) if random.random() < self._weather.loss else 0.0
            await chunks.put((asyncio.get_running_loop().time() + self._weather.delay_s + lost, chunk))


def _break(writer: asyncio.StreamWriter) -> None:
    """End a connection the hard way: the other side is told by a reset, if at all."""
    raw: Any = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def serve(runtime: Path, wanted: dict[str, str]) -> None:
    """Run the links until the input ends."""
    links = {name: Link(runtime, server) for name, server in wanted.items()}
    _say({name: await link.listen() for name, link in links.items()})
    loop = asyncio.get_running_loop()
    known = {one.name for one in fields(Weather)}
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        told = json.loads(line)
        links[told["link"]].change(Weather(**{name: told[name] for name in known & told.keys()}))
        _say(told)


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), dict(part.split("=") for part in sys.argv[2:])))
