"""What an operator may tune about serving, and where each default comes from."""

import attrs
from hypercorn.config import Config

KIB = 1024
MIB = 1024 * KIB


@attrs.frozen
class BoundAddress:
    """A host and port that a listening socket has been bound to."""

    host: str
    port: int


@attrs.frozen
class ServingSettings:
    """Where to listen, and the limits that one client cannot exceed.

    Sizes are in bytes, times in seconds. Memory that one connection can pin is about
    `connection_window_bytes` inbound, and `send_buffer_bytes` times its open requests outbound.
    """

    host: str = "0.0.0.0"  # noqa: S104  (a server for other machines, by purpose)
    port: int = 8080
    """0 takes any free port; `serve` reports which."""

    backlog: int = 1024
    """Connections the kernel completes ahead of `accept`: absorbs a reconnecting crowd."""

    max_connections: int = 10_000
    """Beyond it nothing is accepted until one ends. Each costs a descriptor and some 50 KiB."""

    grace_seconds: float = 10.0
    """From shutdown to cutting whatever is left; what the reference server allows."""

    keep_alive_seconds: float = 180.0
    """An idle connection is closed after this. Twice the 90 s for which clients pool connections,
    so that it is the client that closes: a server that does it costs the next request a retry."""

    head_timeout_seconds: float = 30.0
    """From the first byte of a request head to its last: bounds a slow-loris client."""

    handshake_timeout_seconds: float = 10.0
    """For the whole TLS handshake, if there is one."""

    drain_seconds: float = 5.0
    """For reading the rest of a request that was answered early, and for the last bytes of a
    connection to leave: longer than a retransmission, shorter than the grace period."""

    drain_bytes: int = 8 * MIB
    """The most that is read and dropped of such a request: four times the largest valid one."""

    max_concurrent_streams: int = 256
    """HTTP/2 requests at a time on one connection. Clients open up to 100, hyper allows 200."""

    stream_window_bytes: int = 2 * MIB
    """What one request body may have in flight and unread: a session frame of the largest size.
    200 MB/s at a round trip of 10 ms. On HTTP/1.1 it bounds the same buffer."""

    connection_window_bytes: int = 32 * MIB
    """The same for all requests of an HTTP/2 connection: 16 stalled sessions stop no other one."""

    max_frame_bytes: int = 64 * KIB
    """The largest HTTP/2 frame either way: 4 times the protocol's minimum saves most of the cost
    of a frame, and is still short enough for streams to take turns."""

    max_header_list_bytes: int = 64 * KIB
    """A request head: h2's own default, four times that of hypercorn for HTTP/1.1."""

    recv_bytes: int = 256 * KIB
    """Asked of the socket at a time. Uploads gain from more than 64 KiB, and little beyond this."""

    send_buffer_bytes: int = 256 * KIB
    """A response body waits once this much of it is unsent; also what is written at a time."""

    control_backlog_bytes: int = MIB
    """Unsent bytes of all kinds beyond which an HTTP/2 connection is not read from: a client that
    sends pings and never reads the answers does not grow our memory."""


def hypercorn_config(settings: ServingSettings) -> Config:
    """Build what configures the hypercorn classes in use: silent, without limits of their own."""
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = settings.max_header_list_bytes
    config.keep_alive_max_requests = 2**63
    return config
