"""Frames and messages of S2S sessions, as a client makes and reads them."""

import json
from collections.abc import Sequence
from typing import Any

import attrs

from s2lite.codec import s2_pb2
from s2lite.codec.s2s import Compression, encode_frame

Positions = tuple[int, int]  # the first seq_num and the one behind the last


def append_message(
    *bodies: bytes,
    match_seq_num: int | None = None,
    fencing_token: str | None = None,
    timestamps: Sequence[int] = (),
) -> bytes:
    """An `AppendInput` message."""
    message = s2_pb2.AppendInput(match_seq_num=match_seq_num, fencing_token=fencing_token)
    for body in bodies:
        message.records.add(body=body)
    for record, timestamp in zip(message.records, timestamps, strict=False):
        record.timestamp = timestamp
    return message.SerializeToString()


def command_message(operation: bytes, payload: bytes, fencing_token: str | None = None) -> bytes:
    """An `AppendInput` message with one command record."""
    message = s2_pb2.AppendInput(fencing_token=fencing_token)
    record = message.records.add(body=payload)
    record.headers.add(name=b"", value=operation)
    return message.SerializeToString()


def frame(message: bytes, compression: Compression = Compression.NONE) -> bytes:
    """A regular frame."""
    return encode_frame(message, compression)


def append_frame(*bodies: bytes, match_seq_num: int | None = None) -> bytes:
    """The frame of an input."""
    return frame(append_message(*bodies, match_seq_num=match_seq_num))


@attrs.frozen
class Frame:
    """A frame from the server."""

    flag: int
    payload: bytes

    @property
    def ack(self) -> Positions:
        """The seq_nums it acks."""
        ack = s2_pb2.AppendAck.FromString(self.regular)
        assert ack.HasField("start")
        assert ack.HasField("end")
        assert ack.HasField("tail")
        return ack.start.seq_num, ack.end.seq_num

    @property
    def batch(self) -> s2_pb2.ReadBatch:
        """The batch it holds."""
        return s2_pb2.ReadBatch.FromString(self.regular)

    @property
    def regular(self) -> bytes:
        """The message of an uncompressed regular frame."""
        assert self.flag == 0
        return self.payload

    @property
    def terminal(self) -> tuple[int, Any]:
        """The status and the JSON body of a terminal frame."""
        assert self.flag == 0x80
        return int.from_bytes(self.payload[:2], "big"), json.loads(self.payload[2:])


def parse_frames(data: bytes) -> list[Frame]:
    """Cut whole frames."""
    frames = []
    while data:
        length = int.from_bytes(data[:3], "big")
        assert len(data) >= 3 + length, "the last frame is cut off"
        frames.append(Frame(data[3], data[4 : 3 + length]))
        data = data[3 + length :]
    return frames
