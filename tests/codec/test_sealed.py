"""Sealed payloads: round trips, joined and cut, damage to each byte, and the golden frames."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from random import Random

import attrs
import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st
from pyaegis import Aegis256

from s2lite.codec import s2_pb2
from s2lite.codec.protobuf import decode_payload, record_metas, slice_records
from s2lite.codec.sealed import AEGIS_TAG_BYTES, GCM_TAG_BYTES, Seal, clear_frames
from s2lite.model.config import StreamCipher
from s2lite.model.encryption import EncryptionKey
from s2lite.model.errors import DecryptionFailed, S2LiteError, SealedFrameError
from s2lite.model.log import StreamId
from s2lite.model.records import SequencedBatch

GOLDEN = Path(__file__).parent / "golden"
HEAD_BYTES, SALT_BYTES = 38, 32
KEY = EncryptionKey(bytes(range(32)))
OTHER_KEY = EncryptionKey(bytes(range(1, 33)))
STREAM = StreamId(bytes(range(200, 216)))
TEXT = b"a secret that nobody may see"
FENCE = ([(b"", b"fence")], b"token")
TRIM = ([(b"", b"trim")], bytes(8))

Record = tuple[list[tuple[bytes, bytes]], bytes]

ciphers = st.sampled_from(StreamCipher)
ordinary = st.tuples(
    st.lists(st.tuples(st.binary(min_size=1, max_size=5), st.binary(max_size=5)), max_size=2),
    st.binary(max_size=50),
)
records_of_batches = st.lists(
    st.one_of(ordinary, st.sampled_from([FENCE, TRIM])), min_size=1, max_size=8
)


def plain(*records: Record, first: int = 7, timestamp: int = 1000) -> SequencedBatch:
    """A batch as it would be stored without a cipher; timestamps count up."""
    message = s2_pb2.ReadBatch()
    for index, (headers, body) in enumerate(records):
        record = message.records.add(seq_num=first + index, timestamp=timestamp + index, body=body)
        for name, value in headers:
            record.headers.add(name=name, value=value)
    payload = message.SerializeToString()
    metered = sum(meta.metered_bytes for meta in record_metas(payload))
    count = len(records)
    return SequencedBatch(first, count, timestamp, timestamp + count - 1, metered, payload)


def commands_in(batch: SequencedBatch) -> list[int]:
    return [
        index
        for index, record in enumerate(decode_payload(batch.payload))
        if record.headers and not record.headers[0].name
    ]


def sealed_by(seal: Seal, batch: SequencedBatch, seed: int = 0) -> SequencedBatch:
    return seal.seal(batch, commands_in(batch), Random(seed).randbytes)


def totals(batch: SequencedBatch) -> tuple[int, ...]:
    return (
        batch.first_seq_num,
        batch.count,
        batch.first_timestamp,
        batch.last_timestamp,
        batch.metered_bytes,
    )


def joined(batches: Sequence[SequencedBatch]) -> SequencedBatch:
    """Adjacent batches as one, the way segments do it."""
    return SequencedBatch(
        batches[0].first_seq_num,
        sum(batch.count for batch in batches),
        batches[0].first_timestamp,
        batches[-1].last_timestamp,
        sum(batch.metered_bytes for batch in batches),
        b"".join([batch.payload for batch in batches]),
    )


def replaced(batch: SequencedBatch, payload: bytes) -> SequencedBatch:
    return msgspec.structs.replace(batch, payload=payload)


def opened(seal: Seal, batch: SequencedBatch) -> list[SequencedBatch]:
    return [seal.open(frame) for frame in seal.frames(batch)]


@pytest.fixture(params=StreamCipher, ids=str)
def seal(request: pytest.FixtureRequest) -> Seal:
    return Seal(request.param, STREAM, KEY)


# --- round trips ------------------------------------------------------------------------------


@pytest.mark.slow
@given(ciphers, st.lists(records_of_batches, min_size=1, max_size=4), st.randoms())
def test_what_is_sealed_opens_however_batches_are_joined(
    cipher: StreamCipher, batches: list[list[Record]], random: Random
) -> None:
    seal, first = Seal(cipher, STREAM, KEY), 0
    whole: list[SequencedBatch] = []
    for records in batches:
        whole.append(plain(*records, first=first, timestamp=first))
        first += len(records)
    stored = joined([seal.seal(each, commands_in(each), random.randbytes) for each in whole])
    found = joined(opened(seal, stored))
    expected = joined(whole)
    assert totals(found) == totals(stored) == totals(expected)
    assert decode_payload(found.payload) == decode_payload(expected.payload)


@pytest.mark.slow
@given(ciphers, records_of_batches)
def test_a_frame_tells_what_is_in_it_without_being_opened(
    cipher: StreamCipher, records: list[Record]
) -> None:
    seal = Seal(cipher, STREAM, KEY)
    for frame in seal.frames(sealed_by(seal, plain(*records))):
        metas = record_metas(seal.open(frame).payload)
        assert totals(frame) == (
            metas[0].seq_num,
            len(metas),
            metas[0].timestamp,
            metas[-1].timestamp,
            sum(meta.metered_bytes for meta in metas),
        )


def test_a_batch_without_commands_is_one_frame_a_little_larger(seal: Seal) -> None:
    batch = plain(*[([], TEXT)] * 100)
    stored = sealed_by(seal, batch)
    tag = AEGIS_TAG_BYTES if seal.cipher is StreamCipher.AEGIS_256 else GCM_TAG_BYTES
    assert len(stored.payload) == HEAD_BYTES + SALT_BYTES + len(batch.payload) + tag
    assert [totals(frame) for frame in seal.frames(stored)] == [totals(batch)]


def test_neither_bodies_nor_headers_are_in_clear(seal: Seal) -> None:
    batch = plain(([(b"secret-name", b"secret-value")], TEXT), FENCE, ([], TEXT))
    stored = sealed_by(seal, batch).payload
    assert not any(part in stored for part in (TEXT, b"secret-name", b"secret-value"))
    assert KEY.secret not in stored


def test_sealing_the_same_again_shows_nothing_of_it_being_the_same(seal: Seal) -> None:
    batch, random = plain(([], bytes(1000))), Random(1)
    first, second = (seal.seal(batch, (), random.randbytes).payload for _ in range(2))
    content = HEAD_BYTES + SALT_BYTES
    assert first[:HEAD_BYTES] == second[:HEAD_BYTES]
    alike = sum(a == b for a, b in zip(first[content:], second[content:], strict=True))
    assert alike < 40


# --- commands ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([FENCE], [(True, 1)]),
        ([FENCE, TRIM], [(True, 2)]),
        ([([], b"a"), FENCE], [(False, 1), (True, 1)]),
        ([FENCE, ([], b"a"), ([], b"b"), TRIM], [(True, 1), (False, 2), (True, 1)]),
    ],
)
def test_commands_lie_in_clear_frames_that_any_key_opens(
    seal: Seal, records: list[Record], expected: list[tuple[bool, int]]
) -> None:
    batch = plain(*records)
    stranger = attrs.evolve(seal, key=OTHER_KEY)
    found = []
    for frame in stranger.frames(sealed_by(seal, batch)):
        try:
            stranger.open(frame)
            found.append((True, frame.count))
        except DecryptionFailed:
            found.append((False, frame.count))
    assert found == expected


def test_commands_alone_are_written_without_a_key(seal: Seal) -> None:
    batch = plain(FENCE, TRIM)
    assert clear_frames(batch).payload == sealed_by(seal, batch).payload


@pytest.mark.parametrize(
    "forged",
    [
        plain(([], b"forged")),
        plain(FENCE, ([], b"forged")),
        plain(([(b"", b"fence"), (b"x", b"")], b"forged")),
    ],
    ids=["record", "command and record", "two headers"],
)
def test_a_clear_frame_of_ordinary_records_is_refused(seal: Seal, forged: SequencedBatch) -> None:
    with pytest.raises(SealedFrameError, match="more than commands"):
        opened(seal, clear_frames(forged))


def test_a_clear_frame_of_other_records_than_it_says_is_refused(seal: Seal) -> None:
    for content in (plain(TRIM, first=8), plain(TRIM, TRIM)):
        frame = clear_frames(replaced(plain(FENCE), content.payload))
        with pytest.raises(SealedFrameError, match="other records"):
            opened(seal, frame)
    with pytest.raises(SealedFrameError, match="do not decode"):
        opened(seal, clear_frames(replaced(plain(FENCE), b"\x0a\xff")))


# --- what does not open -----------------------------------------------------------------------


def test_every_flipped_byte_is_refused(seal: Seal) -> None:
    batch = plain(([], TEXT), ([(b"n", b"v")], b""))
    stored = sealed_by(seal, batch)
    for index, byte in enumerate(stored.payload):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(stored.payload)
            damaged[index] = byte ^ flip
            with pytest.raises((DecryptionFailed, SealedFrameError)):
                opened(seal, replaced(stored, bytes(damaged)))


@given(ciphers, st.binary(max_size=150))
def test_no_other_bytes_are_taken_for_frames(cipher: StreamCipher, junk: bytes) -> None:
    batch = SequencedBatch(7, 1, 0, 0, 8, junk)
    with pytest.raises((DecryptionFailed, SealedFrameError)):
        opened(Seal(cipher, STREAM, KEY), batch)


def test_a_payload_that_is_cut_off_is_refused_at_any_length(seal: Seal) -> None:
    stored = joined([sealed_by(seal, plain(([], TEXT))), sealed_by(seal, plain(FENCE, first=8))])
    for length in range(len(stored.payload)):
        with pytest.raises(SealedFrameError):
            opened(seal, replaced(stored, stored.payload[:length]))


def test_frames_in_another_order_twice_or_left_out_are_refused(seal: Seal) -> None:
    frames = [sealed_by(seal, plain(([], TEXT), first=7 + n), seed=n) for n in range(3)]
    stored = joined(frames)
    right = tuple(frame.payload for frame in frames)
    for length in range(5):
        for wrong in itertools.product(right, repeat=length):
            if wrong != right:
                with pytest.raises(SealedFrameError):
                    opened(seal, replaced(stored, b"".join(wrong)))


def test_a_frame_moved_to_another_position_does_not_open(seal: Seal) -> None:
    payload = bytearray(sealed_by(seal, plain(([], TEXT), first=7)).payload)
    payload[2:10] = (9).to_bytes(8, "big")  # as a thief would have to claim
    with pytest.raises(DecryptionFailed):
        opened(seal, replaced(plain(([], TEXT), first=9), bytes(payload)))


def test_a_frame_of_another_stream_does_not_open(seal: Seal) -> None:
    stored = sealed_by(seal, plain(([], TEXT)))
    with pytest.raises(DecryptionFailed):
        opened(attrs.evolve(seal, stream_id=StreamId(bytes(16))), stored)


def test_another_key_does_not_open_it_and_the_error_tells_nothing(seal: Seal) -> None:
    stored = sealed_by(seal, plain(([], TEXT)))
    with pytest.raises(DecryptionFailed, match="record decryption failed") as caught:
        opened(attrs.evolve(seal, key=OTHER_KEY), stored)
    assert caught.value.__suppress_context__
    assert "secret" not in repr(caught.value)


def test_a_frame_of_another_cipher_is_damage_and_not_a_wrong_key(seal: Seal) -> None:
    stored = sealed_by(seal, plain(([], TEXT)))
    (other,) = set(StreamCipher) - {seal.cipher}
    with pytest.raises(SealedFrameError, match="another kind"):
        opened(attrs.evolve(seal, cipher=other), stored)


def test_a_frame_of_a_later_version_is_named_as_one(seal: Seal) -> None:
    stored = sealed_by(seal, plain(([], TEXT)))
    with pytest.raises(SealedFrameError, match="version 2"):
        opened(seal, replaced(stored, b"\x02" + stored.payload[1:]))


def test_the_key_is_in_no_repr(seal: Seal) -> None:
    assert "redacted" in repr(seal)
    assert issubclass(SealedFrameError, S2LiteError)


# --- golden -----------------------------------------------------------------------------------

GOLDEN_BATCH = plain(([(b"kind", b"x")], b"first"), FENCE, ([], b"third"), first=41, timestamp=5000)


def counting(size: int) -> bytes:
    return bytes(range(size))


@pytest.mark.parametrize("cipher", StreamCipher)
def test_the_golden_frames_are_written_and_opened(cipher: StreamCipher) -> None:
    golden = bytes.fromhex((GOLDEN / f"sealed-1-{cipher}.hex").read_text())
    seal = Seal(cipher, STREAM, KEY)
    assert seal.seal(GOLDEN_BATCH, (1,), counting).payload == golden
    found = joined(opened(seal, replaced(GOLDEN_BATCH, golden)))
    assert decode_payload(found.payload) == decode_payload(GOLDEN_BATCH.payload)


@pytest.mark.parametrize("cipher", StreamCipher)
def test_the_golden_frames_open_the_way_the_format_says(cipher: StreamCipher) -> None:
    golden = bytes.fromhex((GOLDEN / f"sealed-1-{cipher}.hex").read_text())
    bound, content = golden[:70], golden[70 : 70 + int.from_bytes(golden[34:38], "big")]
    info = b"s2lite sealed frame" + golden[:2] + golden[38:70]
    derived = HKDFExpand(SHA512(), 64, info).derive(KEY.secret)
    if cipher is StreamCipher.AEGIS_256:
        found = Aegis256(32).decrypt(derived[:32], derived[32:], content, bound + STREAM)
    else:
        found = AESGCM(derived[:32]).decrypt(derived[32:44], content, bound + STREAM)
    assert found == slice_records(GOLDEN_BATCH.payload, 0, 1)
