"""Integration engines as peers: the `hl7` library's own client and its own MLLP server (asyncio), on loopback."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import hl7
from hl7.client import MLLPClient
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server


def send(port: int, *messages: bytes) -> list[hl7.Message]:
    """Send messages one after another on one connection with the library's client; return its answers."""
    with MLLPClient("127.0.0.1", port) as client:
        return [answered(client.send_message(message)) for message in messages]


def answered(block: bytes) -> hl7.Message:
    """Return an answer without its block."""
    assert block.startswith(b"\x0b"), block
    assert block.endswith(b"\x1c\r"), block
    return hl7.parse(block[1:-2].decode("utf-8"))


def said(message: hl7.Message) -> tuple[str, str]:
    """Return MSA-1 and MSA-2."""
    fields = [str(one) for one in message["MSA"][0]]
    return fields[1], fields[2] if len(fields) > 2 else ""


@dataclass
class Engine:
    """A receiver that acknowledges by `codes`, in turn, the last for ever."""

    codes: list[str] = field(default_factory=lambda: ["AA"])
    received: list[hl7.Message] = field(default_factory=list)
    port: int = 0

    async def serve(self, reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        """Take what comes on one connection."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                message = await reader.readmessage()
                self.received.append(message)
                code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
                writer.writemessage(message.create_ack(code))
                await writer.drain()
        writer.close()


@contextmanager
def engine(port: int, *, codes: tuple[str, ...] = ("AA",), tls: ssl.SSLContext | None = None) -> Iterator[Engine]:
    """Run an engine on a port, in a thread with a loop of its own."""
    made, ready, loop = Engine(list(codes), port=port), threading.Event(), asyncio.new_event_loop()

    async def run() -> None:
        server = await start_hl7_server(made.serve, "127.0.0.1", port, encoding="utf-8", ssl=tls)
        ready.set()
        with suppress(asyncio.CancelledError):
            await server.serve_forever()

    tasks: list[asyncio.Task[None]] = []

    def work() -> None:
        asyncio.set_event_loop(loop)
        tasks.append(loop.create_task(run()))
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(tasks[0])
        loop.run_until_complete(_end_all(loop))
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield made
    finally:
        _call(loop, tasks[0].cancel)
        thread.join(timeout=10)


async def _end_all(loop: asyncio.AbstractEventLoop) -> None:
    left = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _call(loop: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
    loop.call_soon_threadsafe(what)
