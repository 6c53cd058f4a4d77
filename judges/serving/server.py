"""A scorer on a port, until it is told to stop: opened at once, drained before the end."""

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

WRITE_SECONDS = 3  # at the end, for answers that are still to be written: a client that does not read is left
KEEP_ALIVE_SECONDS = 75  # a trainer comes back after a step, on the connection it has


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen, and who may ask. Port 0 is any free one. Raises CannotRun for a place open to the network
    without a token."""

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""

    def __post_init__(self) -> None:
        if self.token and (not self.token.isascii() or not self.token.isprintable() or " " in self.token):
            raise CannotRun("a token is printable ASCII without spaces")
        if not self.token and not is_loopback(self.host):
            raise CannotRun(
                f"{self.host} can be reached from outside this machine: give a token (--token or ASSAY_TOKEN)"
            )


@dataclass(frozen=True, slots=True)
class Served:
    """How a server ended: `left` responses were not judged in time; `let_go` that the scorer's thread has ended."""

    left: int
    let_go: bool


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("")
    (True, True, False, False)
    """
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def serve(
    scorer: Scorer,
    place: Place,
    limits: Limits,
    queue: int,
    drain_seconds: float,
    say: Callable[[str], None],
    quiet: bool = False,
) -> Served:
    """Answer until SIGTERM or Ctrl-C; then refuse what comes, finish what was admitted, and return.

    Raises CannotRun when the port is taken, the scorer cannot be opened, or it has failed while serving.
    """
    with _listening(place) as listener:
        metrics = Metrics()
        service = Service(scorer, queue, metrics.judged)
        config = uvicorn.Config(
            create_app(service, metrics, limits, place.token),
            # Named, so that what happens to be installed does not decide how HTTP is read.
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
        left = asyncio.run(_until_told(_Server(config), service, listener, drain_seconds, ready, say, quiet))
    let_go = service.stop()
    if service.why:
        raise CannotRun(service.why)
    return Served(left, let_go)


class _Server(uvicorn.Server):
    """uvicorn without its signals: it would close the port at once, and end the process by the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _until_told(
    server: _Server,
    service: Service,
    listener: socket.socket,
    drain_seconds: float,
    ready: str,
    say: Callable[[str], None],
    quiet: bool,
) -> int:
    """Serve until a signal, then drain; the responses that were not judged in time. A second signal hurries."""
    loop = asyncio.get_running_loop()
    told, hurried = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (hurried if told.is_set() else told).set())
    answering = asyncio.create_task(server.serve(sockets=[listener]))
    opening = asyncio.create_task(service.open())
    stopping = asyncio.create_task(told.wait())
    try:
        await asyncio.wait({opening, stopping, answering}, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            opening.result()
            say(ready)
            await asyncio.wait({stopping, answering}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            answering.result()
        service.drain()
        if not opening.done():
            return 0  # nothing was admitted yet
        if _held(service) and not quiet:
            say(f"draining {_held(service)} responses, for {drain_seconds:g} seconds at the most")
        until = loop.time() + drain_seconds
        while _held(service) and loop.time() < until and not hurried.is_set():
            await asyncio.sleep(0.02)
        return _held(service)
    finally:
        opening.cancel()
        stopping.cancel()
        service.stop(0)
        server.should_exit = True
        await asyncio.gather(answering, opening, stopping, return_exceptions=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _held(service: Service) -> int:
    return service.depth.waiting + service.depth.in_flight


@contextmanager
def _listening(place: Place) -> Iterator[socket.socket]:
    try:
        family, *_, address = socket.getaddrinfo(place.host or "0.0.0.0", place.port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=2048)  # type: ignore[arg-type]
    except (OSError, OverflowError, UnicodeError) as error:
        raise CannotRun(f"cannot listen at {place.host}:{place.port}: {error}") from error
    with listener:
        listener.setblocking(False)
        yield listener
