"""Limits and protocol constants of the S2 API."""

from typing import Final

U64_MAX: Final = 2**64 - 1
U32_MAX: Final = 2**32 - 1

# Batches: the same three bounds hold for an append, a unary read and one batch of a read session.
MAX_BATCH_RECORDS: Final = 1000
MAX_BATCH_BYTES: Final = 1024 * 1024
MAX_RECORD_BYTES: Final = 1024 * 1024

# Metering: a record costs 8, plus 2 a header, plus the bytes of its names, values and body.
RECORD_OVERHEAD_BYTES: Final = 8
HEADER_OVERHEAD_BYTES: Final = 2

MAX_FENCING_TOKEN_BYTES: Final = 36
TRIM_POINT_BYTES: Final = 8
# The trim point of the record a stream's deletion appends: every record there can ever be.
TERMINAL_TRIM_POINT: Final = U64_MAX

MIN_BASIN_NAME_BYTES: Final = 8
MAX_BASIN_NAME_BYTES: Final = 48
MAX_STREAM_NAME_BYTES: Final = 512
MAX_LOCATION_NAME_BYTES: Final = 64
MAX_REQUEST_TOKEN_BYTES: Final = 36
MAX_LIST_LIMIT: Final = 1000

# Request bodies, after HTTP decompression.
MAX_UNARY_BODY_BYTES: Final = 2 * 1024 * 1024
# Sessions: the value of a frame's length prefix, which counts the flag byte, and what a payload
# may decompress to.
MAX_FRAME_LENGTH: Final = 2 * 1024 * 1024
MAX_FRAME_PAYLOAD_BYTES: Final = MAX_FRAME_LENGTH - 1
# A sender compresses only payloads of at least this size.
COMPRESSION_THRESHOLD_BYTES: Final = 1024

MAX_UNARY_WAIT_SECONDS: Final = 60
DEFAULT_RETENTION_SECONDS: Final = 7 * 24 * 60 * 60
ENCRYPTION_KEY_BYTES: Final = 32
