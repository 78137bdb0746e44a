"""What can go wrong, as values: one class per outcome that a caller treats differently.

Facts are in fields and `str(error)` is a sentence for humans. HTTP statuses are not known here.
"""

import attrs

from s2lite.model.positions import StreamPosition


class S2LiteError(Exception):
    """The root of every error the server raises on purpose."""


# --- what the client sent ---------------------------------------------------------------------


@attrs.define
class InvalidName(S2LiteError):
    """A name, prefix, cursor or token breaks a rule; `kind` says which one, `reason` which rule."""

    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.reason}"


@attrs.define
class InvalidInput(S2LiteError):
    """The request is well formed, but what it asks for is not allowed."""

    text: str

    def __str__(self) -> str:
        return self.text


@attrs.define
class NotImplementedYet(S2LiteError):
    """The request asks for a part of the API that this server does not have."""

    what: str

    def __str__(self) -> str:
        return f"{self.what} is not implemented by this server"


@attrs.define
class DecodeError(S2LiteError):
    """Bytes from a client are not the format they claim to be."""

    text: str

    def __str__(self) -> str:
        return self.text


class JsonError(DecodeError):
    """A JSON body is malformed, or has a member of the wrong type."""


class ProtobufError(DecodeError):
    """A protobuf body does not decode."""


class FrameError(DecodeError):
    """A session's byte stream breaks the rules of framing."""


@attrs.define
class EncryptionKeyMissing(S2LiteError):
    """The stream's records are encrypted, and the request came without a key."""

    cipher: str

    def __str__(self) -> str:
        return f"missing encryption key: the stream's cipher is {self.cipher}"


@attrs.define
class DecryptionFailed(S2LiteError):
    """The key of a read does not open some record in its range."""

    def __str__(self) -> str:
        return "record decryption failed: it was not sealed with this key"


class SealedFrameError(DecodeError):
    """What is stored of an encrypted stream is not made of sealed frames."""


@attrs.define
class CipherExhausted(InvalidInput):
    """A record would get a seq_num that its stream's cipher may not seal. Nothing was written."""


# --- basins and streams -----------------------------------------------------------------------


@attrs.define
class BasinNotFound(S2LiteError):
    """There is no basin of that name."""

    basin: str

    def __str__(self) -> str:
        return f"basin `{self.basin}` not found"


@attrs.define
class StreamNotFound(S2LiteError):
    """There is no stream of that name in the basin."""

    basin: str
    stream: str

    def __str__(self) -> str:
        return f"stream `{self.stream}` in basin `{self.basin}` not found"


@attrs.define
class BasinExists(S2LiteError):
    """A basin of that name exists, and the request is not a replay of the one that created it."""

    basin: str

    def __str__(self) -> str:
        return f"basin `{self.basin}` already exists"


@attrs.define
class StreamExists(S2LiteError):
    """A stream of that name exists, and the request is not a replay of the one that created it."""

    basin: str
    stream: str

    def __str__(self) -> str:
        return f"stream `{self.stream}` in basin `{self.basin}` already exists"


@attrs.define
class BasinDeletionPending(S2LiteError):
    """The basin is being deleted; its name is free again when that is done."""

    basin: str

    def __str__(self) -> str:
        return f"basin `{self.basin}` is being deleted"


@attrs.define
class StreamDeletionPending(S2LiteError):
    """The stream is being deleted; its name is free again when that is done."""

    basin: str
    stream: str

    def __str__(self) -> str:
        return f"stream `{self.stream}` in basin `{self.basin}` is being deleted"


# --- appends and reads ------------------------------------------------------------------------


class AppendConditionFailed(S2LiteError):
    """A condition that came with an append did not hold. Nothing was written."""


@attrs.define
class FencingTokenMismatch(AppendConditionFailed):
    """The append named a fencing token that is not the one in force. Nothing was written."""

    actual: str

    def __str__(self) -> str:
        return f"the fencing token in force is `{self.actual}`"


@attrs.define
class SeqNumMismatch(AppendConditionFailed):
    """The append expected another next sequence number. Nothing was written."""

    next_seq_num: int

    def __str__(self) -> str:
        return f"the next sequence number is {self.next_seq_num}"


@attrs.define
class ReadPastTail(S2LiteError):
    """The read starts where there is nothing, and it may not wait for something to come."""

    tail: StreamPosition

    def __str__(self) -> str:
        return f"nothing to read: the stream's tail is {self.tail.seq_num}"


# --- the server's own troubles ----------------------------------------------------------------


class StorageError(S2LiteError):
    """The object store could not do what was asked of it."""


@attrs.define
class StorageFailed(StorageError):
    """A write failed, and it is not known that it had no effect: it may have landed."""

    reason: str = "storage failed"

    def __str__(self) -> str:
        return self.reason


@attrs.define
class WriterFenced(StorageError):
    """Another process has taken over writing; this one must not answer for the data any more."""

    reason: str = "another server has taken over this storage path"

    @classmethod
    def by(cls, epoch: int) -> "WriterFenced":
        """Fenced by the writer of this epoch."""
        return cls(f"another server, of epoch {epoch}, has taken over this storage path")

    def __str__(self) -> str:
        return self.reason


@attrs.define
class CorruptObject(StorageError):
    """A stored object does not decode or fails its checksum; only its own range is affected."""

    key: str
    reason: str

    def __str__(self) -> str:
        return f"object `{self.key}` is damaged: {self.reason}"


@attrs.define
class StreamUnavailable(S2LiteError):
    """The stream's owner was gone before it took the request, or while a reader followed it."""

    reason: str = "the stream is unavailable"

    def __str__(self) -> str:
        return self.reason


@attrs.define
class OutcomeUnknown(S2LiteError):
    """The stream's owner went away after it took the request: it may have been carried out."""

    reason: str = "the outcome of the request is unknown"

    def __str__(self) -> str:
        return self.reason
