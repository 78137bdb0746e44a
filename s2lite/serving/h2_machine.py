"""h2's connection, adjusted to what a server of long sessions needs."""

from h2.config import H2Configuration
from h2.connection import (
    ConnectionInputs,
    ConnectionState,
    H2Connection,
    H2ConnectionStateMachine,
)
from h2.exceptions import DenialOfServiceError
from h2.frame_buffer import FrameBuffer
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame

from s2lite.serving.settings import ServingSettings

# The window of every connection until WINDOW_UPDATE says otherwise (RFC 9113, 6.9.2).
INITIAL_CONNECTION_WINDOW = 65_535


# A GOAWAY of a client only says that it will open no more streams. Some send it as soon as they
# are advised to reconnect, and go on with the streams they have; h2 takes it for the end of the
# connection. The table is private to h2 4.x; a test pins what it does.
_TRANSITIONS = {
    **H2ConnectionStateMachine._transitions,
    (ConnectionState.SERVER_OPEN, ConnectionInputs.RECV_GOAWAY): (
        None,
        ConnectionState.SERVER_OPEN,
    ),
}


def _unprinted() -> str:
    return "..."


# A header list so many times the limit is decoded, in order to be answered rather than to end its
# connection, as one beyond that does: HPACK's state is lost if a list is not decoded.
_HEADER_LIST_SLACK = 4


class _StrictFrameBuffer(FrameBuffer):
    """Cuts what arrives into frames.

    Refuses a frame that is too large by its head: h2 first waits for all of it, 16 MiB at most.
    Refuses a header block by its size before it is whole: h2 waits for 64 frames of it.
    Spares frames from being printed: h2 does it for a log that is off, a third of DATA's cost.
    """

    def __init__(self, max_header_block_bytes: int) -> None:
        super().__init__(server=True)
        self._max_header_block_bytes = max_header_block_bytes

    @property
    def holds_part(self) -> bool:
        """Whether a frame or a header block has begun and is not complete."""
        return bool(self._data or self._headers_buffer)

    def _update_header_buffer(self, f: Frame | None) -> Frame | None:
        complete = super()._update_header_buffer(f)
        if sum(len(part.data) for part in self._headers_buffer) > self._max_header_block_bytes:
            raise DenialOfServiceError("a header block is too large")
        return complete

    def __next__(self) -> Frame:
        if len(self._data) >= 9:
            self._validate_frame_length(int.from_bytes(self._data[:3], "big"))
        frame = super().__next__()
        frame._body_repr = _unprinted  # type: ignore[method-assign]  # of this instance only
        return frame


class ServerH2Connection(H2Connection):
    """The server side of an HTTP/2 connection with windows and limits from settings."""

    # Only for telling why a late frame is late. More than a connection has streams in flight, and
    # less than the 65,536 of h2, which are 8 MB a connection.
    MAX_CLOSED_STREAMS = 1024

    def __init__(self, settings: ServingSettings) -> None:
        super().__init__(H2Configuration(client_side=False, header_encoding=None))
        self.state_machine._transitions = _TRANSITIONS
        self.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: settings.max_concurrent_streams,
                SettingCodes.INITIAL_WINDOW_SIZE: settings.stream_window_bytes,
                SettingCodes.MAX_FRAME_SIZE: settings.max_frame_bytes,
                SettingCodes.MAX_HEADER_LIST_SIZE: settings.max_header_list_bytes,
            },
        )
        max_decoded_bytes = _HEADER_LIST_SLACK * settings.max_header_list_bytes
        self.incoming_buffer: _StrictFrameBuffer = _StrictFrameBuffer(max_decoded_bytes)
        # h2 copies these from the settings it was born with, and again only when they change.
        self.max_inbound_frame_size = settings.max_frame_bytes
        self.decoder.max_header_list_size = max_decoded_bytes
        self._connection_window_bytes = settings.connection_window_bytes

    @property
    def holds_part(self) -> bool:
        """Whether a frame or a header block has begun to arrive and is not complete."""
        return self.incoming_buffer.holds_part

    def announce(self) -> None:
        """Widen the connection's window, and leave the limit on streams to the caller.

        To be called once, behind the SETTINGS frame. h2 answers a stream too many by ending the
        connection; a stream too many deserves REFUSED_STREAM, which clients may retry.
        """
        increment = self._connection_window_bytes - INITIAL_CONNECTION_WINDOW
        if increment > 0:
            self.increment_flow_control_window(increment)
        unlimited = dict(self.local_settings.items())
        unlimited[SettingCodes.MAX_CONCURRENT_STREAMS] = 2**31 - 1
        self.local_settings = Settings(client=False, initial_values=unlimited)  # type: ignore[arg-type]  # the codes are all known ones

    def clear_outbound_data_buffer(self) -> None:
        """Keep what is to be sent: h2 would drop it on a GOAWAY, answers included."""
