"""The server process: opens the scorer, listens on a port, and drains the queue on SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from judges.errors import CannotRun
from judges.scorer import Scorer
from judges.serving.app import Limits, create_app
from judges.serving.metrics import Metrics
from judges.serving.service import Service

WRITE_SECONDS = 3  # at the end, for responses that are still being written; a client that does not read is disconnected
KEEP_ALIVE_SECONDS = 75  # a trainer sends its next request on the same connection after a step


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The address to listen on, and the token that clients need. Port 0 is any free port.

    Raises CannotRun for an address that other machines can reach without a token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""

    def __post_init__(self) -> None:
        if self.token and (not self.token.isascii() or not self.token.isprintable() or " " in self.token):
            raise CannotRun("the token must be printable ASCII without spaces")
        if not self.token and not is_loopback(self.host):
            raise CannotRun(
                f"{self.host} can be reached from outside this machine: give a token (--token or ASSAY_TOKEN)"
            )


@dataclass(frozen=True, slots=True)
class ServeResult:
    """How a server ended: the number of `unfinished` responses, and whether the scorer's thread has ended."""

    unfinished: int
    thread_ended: bool


def is_loopback(host: str) -> bool:
    """Whether a host can be reached only from this machine.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("")
    (True, True, False, False)
    """
    try:
        addresses = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in addresses)


def serve(
    scorer: Scorer,
    config: ServerConfig,
    limits: Limits,
    queue: int,
    drain_seconds: float,
    report: Callable[[str], None],
    quiet: bool = False,
) -> ServeResult:
    """Serve until SIGTERM or Ctrl-C, then refuse new requests, finish the admitted ones, and return.

    At most `queue` responses are admitted at a time; draining takes at most `drain_seconds`. `report` prints the line
    that the server is ready, and unless `quiet` the one that it drains.

    Raises CannotRun when the port is taken, the scorer cannot be opened, or it has failed while serving.
    """
    with _listen(config) as listener:
        metrics = Metrics()
        service = Service(scorer, queue, metrics.count_card)
        uvicorn_config = uvicorn.Config(
            create_app(service, metrics, limits, config.token),
            # Set explicitly, so that HTTP parsing does not depend on which packages are installed.
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=WRITE_SECONDS,
        )
        address, port = listener.getsockname()[:2]
        url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
        ready = f"serving {service.name} at {url}"
        unfinished = asyncio.run(
            _run_until_signal(_Server(uvicorn_config), service, listener, drain_seconds, ready, report, quiet)
        )
    thread_ended = service.stop()
    if service.error:
        raise CannotRun(service.error)
    return ServeResult(unfinished, thread_ended)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would close the port at once and raise the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _run_until_signal(
    server: _Server,
    service: Service,
    listener: socket.socket,
    drain_seconds: float,
    ready: str,
    report: Callable[[str], None],
    quiet: bool,
) -> int:
    """Serve until a signal, then drain until a second one. Returns the number of unfinished responses."""
    loop = asyncio.get_running_loop()
    stop, abort = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (abort if stop.is_set() else stop).set())
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    opening = asyncio.create_task(service.open())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({opening, stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            opening.result()
            report(ready)
            await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        service.drain()
        if not opening.done():
            return 0  # no request was admitted yet
        if _unfinished(service) and not quiet:
            report(f"draining {_unfinished(service)} responses, for at most {drain_seconds:g} seconds")
        until = loop.time() + drain_seconds
        while _unfinished(service) and loop.time() < until and not abort.is_set():
            await asyncio.sleep(0.02)
        return _unfinished(service)
    finally:
        opening.cancel()
        stopping.cancel()
        service.stop(0)
        server.should_exit = True
        await asyncio.gather(serving, opening, stopping, return_exceptions=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _unfinished(service: Service) -> int:
    return service.depth.waiting + service.depth.in_flight


@contextmanager
def _listen(config: ServerConfig) -> Iterator[socket.socket]:
    try:
        family, *_, address = socket.getaddrinfo(config.host or "0.0.0.0", config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=2048)  # type: ignore[arg-type]
    except (OSError, OverflowError, UnicodeError) as error:
        raise CannotRun(f"cannot listen at {config.host}:{config.port}: {error}") from error
    with listener:
        listener.setblocking(False)
        yield listener
