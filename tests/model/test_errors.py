from s2lite.model import errors
from s2lite.model.positions import StreamPosition


def test_an_error_reads_as_a_sentence_and_keeps_its_facts() -> None:
    missing = errors.StreamNotFound("shop-basin", "orders")
    assert str(missing) == "stream `orders` in basin `shop-basin` not found"
    assert (missing.basin, missing.stream) == ("shop-basin", "orders")


def test_errors_of_one_kind_are_caught_together() -> None:
    assert issubclass(errors.SeqNumMismatch, errors.AppendConditionFailed)
    assert issubclass(errors.FencingTokenMismatch, errors.AppendConditionFailed)
    storage = (errors.StorageFailed, errors.WriterFenced, errors.CorruptObject)
    assert all(issubclass(kind, errors.StorageError) for kind in storage)
    malformed = (errors.JsonError, errors.ProtobufError, errors.FrameError)
    assert all(issubclass(kind, errors.DecodeError) for kind in malformed)


def test_every_error_has_a_text() -> None:
    samples = [
        errors.InvalidName("basin name", "must not be empty"),
        errors.InvalidInput("no"),
        errors.NotImplementedYet("encryption"),
        errors.JsonError("no"),
        errors.EncryptionKeyMissing("aegis-256"),
        errors.DecryptionFailed(),
        errors.BasinNotFound("b"),
        errors.BasinExists("b"),
        errors.StreamExists("b", "s"),
        errors.BasinDeletionPending("b"),
        errors.StreamDeletionPending("b", "s"),
        errors.FencingTokenMismatch("tok"),
        errors.SeqNumMismatch(7),
        errors.ReadPastTail(StreamPosition(5, 1)),
        errors.StorageFailed(),
        errors.WriterFenced(),
        errors.CorruptObject("wal/1", "checksum"),
        errors.StreamUnavailable(),
        errors.OutcomeUnknown(),
    ]
    for sample in samples:
        assert isinstance(sample, errors.S2LiteError)
        assert str(sample)
        assert "(" not in str(sample), "a repr is not a sentence"
