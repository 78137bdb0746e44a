import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from s2lite.codec.s2s import (
    Compression,
    FrameDecoder,
    encode_frame,
    encode_terminal,
    select_compression,
)
from s2lite.model.errors import FrameError
from s2lite.model.limits import MAX_FRAME_PAYLOAD_BYTES

NONE, ZSTD, GZIP = Compression.NONE, Compression.ZSTD, Compression.GZIP

LARGE = b"".join(index.to_bytes(2, "big") for index in range(10_240))


def frame(flag: int, payload: bytes) -> bytes:
    return (1 + len(payload)).to_bytes(3, "big") + bytes([flag]) + payload


def decode(data: bytes) -> list[bytes]:
    """Decode a whole stream; what the messages were before a bad frame is lost."""
    decoder = FrameDecoder()
    messages = list(decoder.feed(data))
    decoder.close()
    return messages


def delivered(decoder: FrameDecoder, chunks: Iterable[bytes]) -> tuple[list[bytes], str | None]:
    """Collect the messages that come out before the first error, and the error's text."""
    messages: list[bytes] = []
    try:
        for chunk in chunks:
            for message in decoder.feed(chunk):
                messages.append(message)
        decoder.close()
    except FrameError as error:
        return messages, str(error)
    return messages, None


def zstd_stream(data: bytes) -> bytes:
    """Compress so that the frame does not state the size of its content."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()


COMPRESSORS: list[tuple[int, Callable[[bytes], bytes]]] = [
    (0x20, zstandard.compress),
    (0x20, zstd_stream),
    (0x40, gzip.compress),
]


# --- encoding ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        ("0A 04 1A 02 68 69", "00 00 07 00 0A 04 1A 02 68 69"),
        ("12 00", "00 00 03 00 12 00"),
        ("12 05 08 05 10 E8 07", "00 00 08 00 12 05 08 05 10 E8 07"),
        ("", "00 00 01 00"),
    ],
)
def test_a_small_frame_is_a_length_a_flag_and_the_message(message: str, wire: str) -> None:
    for compression in Compression:
        assert encode_frame(bytes.fromhex(message), compression) == bytes.fromhex(wire)


def test_a_frame_may_advise_the_client_to_reconnect() -> None:
    heartbeat = bytes.fromhex("12 05 08 09 10 E9 07")
    assert encode_frame(heartbeat, NONE, reconnect_advised=True) == (
        bytes.fromhex("00 00 08 10 12 05 08 09 10 E9 07")
    )
    assert encode_frame(LARGE, ZSTD, reconnect_advised=True)[3] == 0x30
    assert encode_frame(LARGE, GZIP, reconnect_advised=True)[3] == 0x50


def test_a_terminal_frame_has_the_status_and_the_body() -> None:
    assert encode_terminal(412, b'{"seq_num_mismatch":1}') == bytes.fromhex(
        "00 00 19 80 01 9C 7B 22 73 65 71 5F 6E 75 6D 5F 6D 69 73 6D 61 74 63 68 22 3A 31 7D"
    )
    draining = encode_terminal(503, b'{"code":"server_draining","message":"bye"}')
    assert draining[:11] == bytes.fromhex("00 00 2D 80 01 F7 7B 22 63 6F 64")


@pytest.mark.parametrize(
    ("status", "wire"),
    [(400, "01 90"), (409, "01 99"), (422, "01 A6"), (500, "01 F4"), (503, "01 F7")],
)
def test_the_status_of_a_terminal_frame_is_big_endian(status: int, wire: str) -> None:
    assert encode_terminal(status, b"")[4:] == bytes.fromhex(wire)


def test_a_terminal_frame_is_never_compressed() -> None:
    assert encode_terminal(500, b"x" * 5000)[3:] == b"\x80\x01\xf4" + b"x" * 5000


@pytest.mark.parametrize(
    ("compression", "start"), [(ZSTD, "20 28 B5 2F FD"), (GZIP, "40 1F 8B 08")]
)
def test_a_message_is_compressed_from_1024_bytes_on(compression: Compression, start: str) -> None:
    assert encode_frame(b"x" * 1023, compression) == frame(0x00, b"x" * 1023)
    compressed = encode_frame(b"x" * 1024, compression)
    assert compressed[3:].startswith(bytes.fromhex(start))
    assert len(compressed) < 100
    assert decode(compressed) == [b"x" * 1024]


def test_a_large_message_stays_as_it_is_without_compression() -> None:
    assert encode_frame(LARGE, NONE) == frame(0x00, LARGE)


def test_what_does_not_fit_a_frame_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        encode_frame(bytes(2**24), NONE)


@pytest.mark.parametrize(
    ("values", "compression"),
    [
        ([], NONE),
        ([""], NONE),
        (["gzip, zstd, br"], ZSTD),
        (["gzip", "br", "zstd"], ZSTD),
        (["gzip;q=0.8, deflate"], GZIP),
        (["gzip;q=0"], GZIP),
        ([" GZip ;q=1"], GZIP),
        (["ZSTD"], ZSTD),
        (["br"], NONE),
        (["*"], NONE),
        (["x-gzip, zstandard"], NONE),
    ],
)
def test_zstd_is_preferred_to_gzip_and_weights_are_ignored(
    values: list[str], compression: Compression
) -> None:
    assert select_compression(values) is compression


# --- decoding ---------------------------------------------------------------------------------

STREAM = (
    frame(0x00, b"one")
    + frame(0x40, gzip.compress(b"two"))
    + frame(0x00, b"")
    + frame(0x20, zstandard.compress(b"three"))
)
MESSAGES = [b"one", b"two", b"", b"three"]


def test_a_stream_split_at_any_byte_decodes_the_same() -> None:
    for cut in range(len(STREAM) + 1):
        chunks = STREAM[:cut], STREAM[cut:]
        assert delivered(FrameDecoder(), chunks) == (MESSAGES, None)


def test_a_stream_that_comes_byte_by_byte_decodes_the_same() -> None:
    chunks = [STREAM[at : at + 1] for at in range(len(STREAM))]
    assert delivered(FrameDecoder(), chunks) == (MESSAGES, None)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.binary(max_size=50), max_size=6),
    st.lists(st.integers(0, 300), max_size=12),
)
def test_any_messages_in_any_chunks_come_out_whole(messages: list[bytes], at: list[int]) -> None:
    stream = b"".join(encode_frame(message, NONE) for message in messages)
    cuts = [0, *sorted(min(each, len(stream)) for each in at), len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(cuts)]
    assert delivered(FrameDecoder(), chunks) == (messages, None)


def test_an_empty_stream_has_no_messages() -> None:
    assert decode(b"") == []


@pytest.mark.parametrize("flag", [0x01, 0x0F, 0x10, 0x1F])
def test_reserved_bits_and_advice_are_ignored(flag: int) -> None:
    assert decode(frame(flag, b"hi")) == [b"hi"]


def test_the_largest_frame_is_accepted_whole_or_in_pieces() -> None:
    largest = bytes(MAX_FRAME_PAYLOAD_BYTES)
    stream = frame(0x00, largest)
    assert stream[:3] == b"\x20\x00\x00"
    assert decode(stream) == [largest]
    pieces = [stream[at : at + 65_536] for at in range(0, len(stream), 65_536)]
    assert delivered(FrameDecoder(), pieces) == ([largest], None)


def test_messages_not_asked_for_come_with_the_next_chunk() -> None:
    decoder = FrameDecoder()
    for message in decoder.feed(frame(0, b"a") + frame(0, b"b") + frame(0, b"c")[:2]):
        assert message == b"a"
        break
    assert list(decoder.feed(frame(0, b"c")[2:])) == [b"b", b"c"]
    decoder.close()


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (b"\x00\x00\x00", "length is 0"),
        (b"\x20\x00\x01", "the limit is 2097152"),
        (b"\xff\xff\xff", "the limit is 2097152"),
        (frame(0x60, b""), "compression bits"),
        (frame(0x7F, b"abc"), "compression bits"),
        (frame(0x80, b""), "terminal"),
        (frame(0x80, b"\x01"), "terminal"),
        (frame(0x80, b"\x01\x90{}"), "terminal"),
        (frame(0x80, b"\x01\x90\xff"), "terminal"),
        (frame(0xE0, b"\x01\x90{}"), "terminal"),
        (frame(0x20, b"hi"), "zstd"),
        (frame(0x40, b"hi"), "gzip"),
        (frame(0x20, b""), "zstd"),
        (frame(0x40, b""), "gzip"),
    ],
)
def test_messages_before_a_bad_frame_are_delivered(bad: bytes, problem: str) -> None:
    for chunks in ([STREAM + bad], [STREAM, bad], [STREAM + bad[:1], bad[1:]]):
        messages, error = delivered(FrameDecoder(), chunks)
        assert messages == MESSAGES
        assert error is not None
        assert problem in error


def test_a_length_that_is_too_large_is_refused_before_anything_else_arrives() -> None:
    decoder = FrameDecoder()
    assert list(decoder.feed(b"\x20\x00")) == []
    with pytest.raises(FrameError):
        list(decoder.feed(b"\x01"))


@pytest.mark.parametrize("kept", range(1, len(frame(0x00, b"one"))))
def test_a_stream_that_ends_inside_a_frame_is_an_error(kept: int) -> None:
    messages, error = delivered(FrameDecoder(), [STREAM + frame(0x00, b"one")[:kept]])
    assert messages == MESSAGES
    assert error == "the stream ends inside a frame"


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000])
def test_compressed_messages_of_any_size_are_accepted(size: int) -> None:
    message = LARGE[:size] * (1 + size // len(LARGE))
    for flag, payload in [
        (0x20, zstandard.compress(message)),
        (0x20, zstd_stream(message)),
        (0x20, zstandard.ZstdCompressor(write_checksum=True).compress(message)),
        (0x40, gzip.compress(message)),
        (0x40, zlib.compress(message, 1, wbits=31)),
    ]:
        assert decode(frame(flag, payload) * 2) == [message, message]


@pytest.mark.parametrize(("flag", "compress"), COMPRESSORS)
def test_a_payload_may_expand_to_the_limit_and_no_further(
    flag: int, compress: Callable[[bytes], bytes]
) -> None:
    [message] = decode(frame(flag, compress(bytes(MAX_FRAME_PAYLOAD_BYTES))))
    assert len(message) == MAX_FRAME_PAYLOAD_BYTES
    with pytest.raises(FrameError):
        decode(frame(flag, compress(bytes(MAX_FRAME_PAYLOAD_BYTES + 1))))


def zstd_stating_zero(data: bytes) -> bytes:
    """Compress so that the frame states, in four bytes, that it has no content."""
    honest = zstd_stream(data)
    return honest[:4] + bytes([honest[4] | 0x80]) + honest[5:6] + bytes(4) + honest[6:]


@pytest.mark.parametrize(("flag", "compress"), [*COMPRESSORS, (0x20, zstd_stating_zero)])
def test_a_payload_that_expands_without_measure_is_refused_and_not_unpacked(
    flag: int, compress: Callable[[bytes], bytes]
) -> None:
    bomb = frame(flag, compress(bytes(20_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            decode(bomb)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3 * MAX_FRAME_PAYLOAD_BYTES


@pytest.mark.parametrize(("flag", "compress"), COMPRESSORS)
def test_a_payload_that_is_cut_off_or_goes_on_is_refused(
    flag: int, compress: Callable[[bytes], bytes]
) -> None:
    whole = compress(b"hello" * 100)
    for payload in (whole[:-1], whole + b"\x00", whole + whole, whole[: len(whole) // 2]):
        with pytest.raises(FrameError):
            decode(frame(flag, payload))


def test_a_zstd_frame_that_lies_about_its_size_is_refused() -> None:
    honest = zstandard.compress(b"x" * 200)
    assert zstandard.frame_content_size(honest) == 200
    at = honest.index(200, 4)
    for stated in (0, 199, 201):
        lie = honest[:at] + bytes([stated]) + honest[at + 1 :]
        assert zstandard.frame_content_size(lie) == stated
        with pytest.raises(FrameError):
            decode(frame(0x20, lie))


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.binary(max_size=40)
        | st.builds(frame, st.integers(0, 255), st.binary(max_size=20))
        | st.builds(
            lambda message, at, byte: frame(0x20, replaced(zstandard.compress(message), at, byte)),
            st.binary(max_size=20),
            st.integers(0, 30),
            st.integers(0, 255),
        )
        | st.builds(
            lambda message, at, byte: frame(0x40, replaced(gzip.compress(message), at, byte)),
            st.binary(max_size=20),
            st.integers(0, 30),
            st.integers(0, 255),
        ),
        max_size=5,
    )
)
def test_any_bytes_are_frames_or_refused(chunks: list[bytes]) -> None:
    decoder = FrameDecoder()
    with suppress(FrameError):
        for chunk in chunks:
            for message in decoder.feed(chunk):
                assert len(message) <= MAX_FRAME_PAYLOAD_BYTES
        decoder.close()


def replaced(data: bytes, at: int, byte: int) -> bytes:
    return data[:at] + bytes([byte]) + data[at + 1 :]


def test_a_frame_may_come_in_very_many_tiny_chunks() -> None:
    stream = frame(0x00, bytes(50_000))
    chunks = (stream[at : at + 1] for at in range(len(stream)))
    assert delivered(FrameDecoder(), chunks) == ([bytes(50_000)], None)
