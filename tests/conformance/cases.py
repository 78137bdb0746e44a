"""The conformance cases: what the official clients and the published API ask of a server.

A case has a number that never changes. `DP` are the cases of the data plane; those of the control
plane are `C`, and those of what the protocol has gained since are `U` (configuration in a header),
`D` (draining), `H` (HTTP/2) and `R` (the rest). Tests name theirs with `case`, and
`scripts/conformance-table` makes the table of docs/conformance.md from a run.
"""

from typing import Final

import pytest

Section = dict[int, str]


def case(*numbers: int, plane: str = "DP") -> pytest.MarkDecorator:
    """Mark a test as showing these cases."""
    return pytest.mark.case(*[f"{plane}{number}" for number in numbers])


DATA_PLANE: Final[dict[str, Section]] = {
    "Routing, headers, formats": {
        1: "a request about records that does not name its basin is 400 `bad_header`",
        2: "so is one whose `s2-basin` breaks the rule for names",
        3: "the stream's name is percent-decoded once: `a%2Fb%20c` is `a/b c`",
        4: "a name in a path has at most 512 bytes, else 400 `bad_path`",
        5: "names no stream can have (`..`, not UTF-8) are 400 `bad_path`",
        6: "unknown paths are 404, unknown methods 405, neither with JSON",
        7: "parameters of a content type do not matter",
        8: "an append without a content type it can come in is 400 `bad_json`",
        9: "only the first type of `accept` counts; one that does not parse is absent",
        10: "an append is answered in protobuf if the client accepts that",
        11: "and in JSON if it does not say",
        12: "any `+json` type gets JSON",
        13: "a read with content type `s2s/proto` is a session, in any case of letters",
        14: "`s2-format` has two names for base64; others are 400 `bad_header`",
        15: "`s2-format` is not looked at in protobuf appends and S2S sessions, but in other reads",
        16: "a query parameter that is empty, doubled or out of range is 400 `bad_query`",
        17: "unknown query parameters are ignored",
        18: "a read with two starts is 422 `invalid`",
    },
    "Bodies": {
        19: "what is not JSON is 400 `bad_json`",
        20: "so is JSON of the wrong shape",
        21: "an append without records is 422 `invalid`, in JSON and in protobuf",
        22: "unknown members are ignored",
        23: "`null` stands for an absent condition or timestamp, never for data",
        24: "a header is a pair of strings",
        25: "integers are neither floats nor negative",
        26: "base64 data is decoded before it is stored",
        27: "base64 that is not padded and canonical is 422 `invalid`",
        28: "raw text is stored as UTF-8",
        29: "bytes that are not UTF-8 are replaced in raw output and whole in base64",
        30: "absent headers and bodies are left out",
        31: "a fencing token has at most 36 bytes: else 400 in JSON, 422 in protobuf",
        32: "what is not protobuf is 400 `bad_proto`",
        33: "a body over 2 MiB is 400 `bad_json` or `bad_proto`",
    },
    "Appends": {
        34: "the first record gets number 0",
        35: "acks of successive appends adjoin",
        36: "an ack covers its whole batch",
        37: "headers keep their order, duplicates and empty values",
        38: "records of a batch keep their own headers",
        39: "a record may be empty",
        40: "a batch has at most 1000 records",
        41: "a record has at most 1 MiB, by its metered size",
        42: "a batch has at most 1 MiB, and is appended as a whole or not at all",
        43: "a missing stream or basin is 404 with a code of its own",
        44: "a malformed append to a missing stream creates nothing",
        45: "of concurrent appends each counts once",
        46: "appends go on while the stream is reconfigured",
        47: "what is acked is visible at once, on any connection",
    },
    "Conditions": {
        48: "`match_seq_num` that holds",
        49: "one that does not: 412 with the next number",
        50: "the token in force is empty at first",
        51: "a fence keeps out other tokens, and not who names none",
        52: "of two failed conditions the token is reported",
        53: "a fence is checked against the token before it",
        54: "an empty fence clears the token",
        55: "of two fences in a batch the last counts",
        56: "a fence counts for the input behind it in the same session",
        57: "conditions are the same on encrypted streams",
        58: "a refusal is told only when the state it tells of is durable",
    },
    "Commands": {
        59: "an unknown command is 422 `invalid`",
        60: "so is an empty header name beside other headers",
        61: "so is a fence whose token is too long or not UTF-8",
        62: "so is a trim that is not 8 bytes",
        63: "a trim removes what is below its number",
        64: "a trim beyond the tail removes everything and itself; the tail stays",
        65: "a trim point never moves back",
        66: "commands are read back as they were written",
        67: "commands and headers weigh what the formula says",
    },
    "Timestamps": {
        68: "client-prefer: the client's timestamp, else the server's",
        69: "timestamps do not go back within a batch",
        70: "nor from batch to batch",
        71: "client-require: a record without one is 422 `invalid`",
        72: "and its whole batch with it",
        73: "arrival: the client's timestamp is ignored",
        74: "a timestamp in the future is now, unless the stream is uncapped",
        75: "an ack has the timestamps of its first and last record",
        76: "a new mode counts from the next append on",
    },
    "Reads of one batch": {
        77: "an empty stream: 416 with the tail",
        78: "`seq_num` and `count`",
        79: "at most 1000 records",
        80: "at most 1 MiB",
        81: "`bytes` is exact, and may allow nothing",
        82: "a limit of 0 is an empty batch, at the tail 416",
        83: "whichever of `count` and `bytes` comes first",
        84: "past the tail: 416 with the tail",
        85: "`clamp` past the tail: 416 all the same, unless the read waits",
        86: "a wait in vain is an empty batch",
        87: "`tail_offset`, up to beyond the first record",
        88: "`timestamp`, alone and with limits",
        89: "a timestamp above the last: 416, `clamp` or not",
        90: "of equal timestamps the first record is the start",
        91: "timestamp 0 on an empty stream is an empty batch, 1 is 416",
        92: "`until` is exclusive",
        93: "whichever of `until` and the limits comes first",
        94: "a range of timestamps",
        95: "an empty range of timestamps is 422 `invalid`, and creates nothing",
        96: "`until=0` with a `seq_num` is an empty batch",
        97: "a read that waits gets the next batch at once, with the tail",
        98: "a read that waits does not if there is something",
        99: "a record beyond `until` ends the wait",
        100: "a wait is at most 60 s",
        101: "a batch that did not wait has no tail",
        102: "a fully trimmed stream is an empty batch, at the tail 416",
        103: "concurrent readers see the same",
    },
    "Read sessions": {
        104: "`wait=0`: up to the tail, then the end, no heartbeat",
        105: "`wait=0` at the tail: an empty body; as events only `[DONE]`",
        106: "with a bound and no wait, at the tail: 416",
        107: "past the tail: 416; clamped it follows from the tail",
        108: "a heartbeat at once at the tail, more every 5 to 15 s",
        109: "catching up, a heartbeat with the tail, then live batches with theirs",
        110: "`wait` ends a session in which nothing comes; heartbeats do not prolong it",
        111: "a record does",
        112: "from catching up to live without gap or duplicate",
        113: "`count` ends a session within a live batch, and at its end",
        114: "`bytes` does as well, and may allow nothing",
        115: "`until` ends it with the first live record beyond",
        116: "a follower that stalls gets everything later, once and in order, and new time",
        117: "limits hold across that",
        118: "it follows again, or ends at once if all is gone and its time is up",
        119: "sessions may idle for over a minute",
        120: "catching up: at most 1000 records a batch, no tails",
        121: "and at most 1 MiB",
        122: "a follower of a stream that is deleted: the last trim, then 503 `unavailable`",
        123: "a missing stream is an ordinary 404",
    },
    "Events": {
        124: "the head; never compressed",
        125: "the first event at the tail is a `ping` with time and tail",
        126: "ids count records and bytes of the connection",
        127: "a limit ends with `[DONE]`",
        128: "`last-event-id` resumes behind an event, limits reduced",
        129: "one that does not parse is 400 `bad_header`; elsewhere it is ignored",
        130: "resuming at the tail, bounded and without wait: 416",
        131: "a wrong key in the middle: an `error` event, no `[DONE]`",
        132: "`s2-format` counts",
    },
    "Frames": {
        133: "a frame may be split anywhere",
        134: "bad lengths and flags are `bad_frame`",
        135: "so is a terminal frame from a client",
        136: "gzip and zstd at any size; what expands beyond the limit is `bad_frame`",
        137: "reserved bits are ignored",
        138: "a request that ends inside a frame: earlier acks, then `bad_frame`",
        139: "a payload that is not protobuf is `bad_frame`, one without records 422 `invalid`",
        140: "`accept-encoding` chooses between zstd, gzip and nothing",
        141: "acks are never compressed, large batches are, the body as a whole is not",
        142: "a terminal frame to the byte, and nothing after it",
        143: "compressed from 1024 bytes on",
    },
    "Append sessions": {
        144: "pipelined inputs are acked in order; a half-close ends the response",
        145: "a half-close without input is an empty 200",
        146: "an ack covers its whole batch",
        147: "inputs may expect each other's numbers",
        148: "a mismatch ends the session, and nothing behind it is applied",
        149: "also if it is the first input",
        150: "many inputs: acks in order, tails never go back",
        151: "an invalid record: earlier acks, then 422 `invalid`",
        152: "the head comes before anything is sent",
        153: "full duplex over HTTP/1.1 and HTTP/2",
        154: "a session may idle for over a minute",
        155: "a missing stream is an ordinary 404",
        156: "a client that goes leaves the stream in order",
    },
    "Tails, creation, deletion": {
        157: "the tail is where the last ack ended; 404 for what is missing",
        158: "the first append creates the stream, if the basin says so",
        159: "so does a read, and checking the tail",
        160: "a stream made so has the basin's cipher",
        161: "of racing requests one creates it, and none fails",
        162: "the flags for appends and reads are apart",
        163: "a stream that is being deleted is 409 `stream_deletion_pending`",
        164: "created again it starts from 0, with no token",
    },
    "Encryption": {
        165: "round trips with both ciphers",
        166: "without a key 400 `bad_header`, which names the cipher",
        167: "the wrong key is 400 `decryption_failed`",
        168: "a key that is no key is 400 `bad_header`",
        169: "on other streams a key is ignored, if it has the shape of one",
        170: "a fence may be the first record",
        171: "two keys in one stream, each opens its own records",
        172: "checking the tail needs no key",
        173: "a stream keeps its cipher when its basin gets another",
        174: "aes-256-gcm encrypts up to number 2^32-1",
        175: "limits are of what is readable",
    },
    "HTTP": {
        176: "request bodies in gzip and zstd; other encodings are 415",
        177: "large answers are compressed for who accepts it",
        178: "a preflight is answered with what was asked",
        179: "every answer is for every origin",
        180: "both versions on one port",
    },
}
"""What each case of the data plane says, in short, by section and number."""

PLANES: Final = {"DP": DATA_PLANE}
"""By the letters in front of their numbers, all cases."""

KNOWN: Final = {
    f"{plane}{number}": text
    for plane, sections in PLANES.items()
    for section in sections.values()
    for number, text in section.items()
}

NOT_TESTED: Final = {
    "DP174": "2^32 records would have to come first; `tests/backend/test_encryption.py` shows it",
}
"""Why there is no test of a case that has none."""
