"""Carries bytes between a TCP port and a UNIX socket: into a network namespace and out of it.

A namespace of the demonstration has no way to the host, and gets none: the file system is what both see. What is
carried is the link as it is, TLS from end to end. `python -m tests.demo.relay /path` listens on a free port of
the loopback interface, writes its number, and ends with its standard input.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from threading import Thread
from typing import Any

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while octets := await reader.read(1 << 16):
            writer.write(octets)
            await writer.drain()
    writer.close()


def _between(connect: Connect) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other_reader, other_writer = await connect()
        except OSError:
            writer.close()
            return
        await asyncio.gather(_carry(reader, other_writer), _carry(other_reader, writer))

    return relay


def from_socket(path: str, port: int) -> None:
    """Carry from a UNIX socket at `path` to a port of the loopback interface, for as long as this process lives."""
    listening = asyncio.new_event_loop()

    async def listen() -> Any:
        connect = _between(lambda: asyncio.open_connection("127.0.0.1", port))
        return await asyncio.start_unix_server(connect, path)

    listening.run_until_complete(listen())
    Thread(target=listening.run_forever, daemon=True).start()


async def _from_port(path: str) -> None:
    server = await asyncio.start_server(_between(lambda: asyncio.open_unix_connection(path)), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_from_port(sys.argv[1]))
