"""What a protocol sees of the connection it runs on."""

from typing import Protocol

from hypercorn.config import Config
from hypercorn.events import Event
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState

from s2lite.serving.exchange import RequestTasks
from s2lite.serving.outbox import Outbox
from s2lite.serving.settings import ServingSettings

Address = tuple[str, int] | None


class Link(Protocol):
    """One connection, as HTTP/1.1 and HTTP/2 use it. Nothing here waits but `send`."""

    app: AppWrapper
    config: Config
    context: WorkerContext
    settings: ServingSettings
    tasks: RequestTasks
    state: ConnectionState
    ssl: bool
    client: Address
    server: Address
    outbox: Outbox
    draining: bool
    """Shutdown has begun: the connection ends as soon as it is idle."""
    closing: bool
    """`close` has been called: what still arrives is not to be looked at."""

    def set_read_deadline(self, seconds: float) -> None:
        """End the connection unless this is called again within so many seconds."""

    def close(self, *, linger: bool, reset: bool = False) -> None:
        """Read no more; send what is waiting, then close.

        With `linger`, first give a client that is still sending the time to read the answer. With
        `reset` the client sees a reset instead of an end, and may not see what was sent last.
        """

    async def send(self, event: Event) -> None:
        """Take an event of a hypercorn protocol; waits for room if it is data."""
