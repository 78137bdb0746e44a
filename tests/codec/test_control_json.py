import json as stdlib_json
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2lite.codec import control_json
from s2lite.codec.control_json import (
    CreateBasinRequest,
    CreateStreamRequest,
    decode_basin_patch,
    decode_create_basin,
    decode_create_stream,
    decode_ensure_basin,
    decode_stream_config,
    decode_stream_config_header,
    decode_stream_patch,
    encode_basin_config,
    encode_stream_config,
)
from s2lite.model.config import (
    BasinConfig,
    BasinReconfiguration,
    RetentionPolicy,
    StorageClass,
    StreamCipher,
    StreamConfig,
    StreamConfigLayer,
    StreamReconfiguration,
    TimestampingMode,
    reconfigure_layer,
)
from s2lite.model.errors import InvalidInput, JsonError
from s2lite.model.names import BasinName, LocationName, StreamName
from s2lite.model.resources import BasinInfo, Page, StreamInfo

INFINITE = RetentionPolicy(None)
U64_MAX = 2**64 - 1

DECODERS: list[Callable[[bytes], object]] = [
    decode_create_basin,
    decode_ensure_basin,
    decode_basin_patch,
    decode_create_stream,
    decode_stream_config,
    decode_stream_config_header,
    decode_stream_patch,
]


def create_basin(config: str) -> BasinConfig:
    return decode_create_basin(f'{{"basin":"test-basin","config":{config}}}'.encode()).config


# --- create and ensure ------------------------------------------------------------------------


def test_a_basin_can_be_created_with_nothing_but_its_name() -> None:
    expected = CreateBasinRequest(BasinName("test-basin"), BasinConfig(), None)
    assert decode_create_basin(b'{"basin":"test-basin"}') == expected


def test_a_basin_can_be_created_with_everything() -> None:
    request = decode_create_basin(
        b'{"basin":"test-basin","location":"aws:us-east-1","config":{"default_stream_config":'
        b'{"storage_class":"standard","retention_policy":{"age":60},"timestamping":'
        b'{"mode":"arrival","uncapped":true},"delete_on_empty":{"min_age_secs":5}},'
        b'"stream_cipher":"aegis-256","create_stream_on_append":true,"create_stream_on_read":true}}'
    )
    assert request == CreateBasinRequest(
        BasinName("test-basin"),
        BasinConfig(
            StreamConfigLayer(
                StorageClass.STANDARD,
                RetentionPolicy(60),
                TimestampingMode.ARRIVAL,
                timestamping_uncapped=True,
                delete_on_empty_min_age_seconds=5,
            ),
            StreamCipher.AEGIS_256,
            create_stream_on_append=True,
            create_stream_on_read=True,
        ),
        LocationName("aws:us-east-1"),
    )


@pytest.mark.parametrize(
    "config",
    [
        "null",
        "{}",
        '{"default_stream_config":null}',
        '{"default_stream_config":{}}',
        '{"default_stream_config":{"timestamping":{}}}',
        '{"default_stream_config":{"timestamping":{"mode":null,"uncapped":null}}}',
        '{"default_stream_config":{"storage_class":null,"retention_policy":null,'
        '"timestamping":null,"delete_on_empty":null}}',
        '{"stream_cipher":null}',
        '{"create_stream_on_read":false,"create_stream_on_append":false}',
        '{"unknown":[1.5,{"x":null}],"unknown":2}',
    ],
)
def test_ways_to_say_nothing_are_equal(config: str) -> None:
    assert create_basin(config) == BasinConfig()


def test_an_explicit_zero_or_default_is_not_nothing() -> None:
    zero = create_basin('{"default_stream_config":{"delete_on_empty":{"min_age_secs":0}}}')
    empty = create_basin('{"default_stream_config":{"delete_on_empty":{}}}')
    assert zero == empty
    assert zero.default_stream_config == StreamConfigLayer(delete_on_empty_min_age_seconds=0)
    express = create_basin('{"default_stream_config":{"storage_class":"express"}}')
    assert len({zero, express, BasinConfig()}) == 3


def test_a_basin_can_be_ensured_with_a_configuration_or_none() -> None:
    assert decode_ensure_basin(b"null") == BasinConfig()
    assert decode_ensure_basin(b'{"location":null}') == BasinConfig()
    assert decode_ensure_basin(b'{"config":{"create_stream_on_read":true}}') == BasinConfig(
        create_stream_on_read=True
    )


def test_a_stream_can_be_created_with_a_configuration_or_none() -> None:
    nothing = CreateStreamRequest(StreamName("a/b"), StreamConfigLayer())
    assert decode_create_stream(b'{"stream":"a/b"}') == nothing
    assert decode_create_stream(b'{"stream":"a/b","config":null}') == nothing
    request = decode_create_stream(b'{"stream":"s","config":{"retention_policy":{"infinite":{}}}}')
    assert request.config == StreamConfigLayer(retention_policy=INFINITE)


def test_a_stream_is_ensured_with_a_bare_configuration() -> None:
    assert decode_stream_config(b'{"storage_class":"standard"}') == StreamConfigLayer(
        StorageClass.STANDARD
    )
    assert decode_stream_config(b"null") == StreamConfigLayer()
    wrapped = b'{"config":{"storage_class":"standard"}}'
    assert decode_stream_config(wrapped) == StreamConfigLayer(), "an unknown member is ignored"


def test_a_header_holds_a_configuration_with_any_whitespace() -> None:
    assert decode_stream_config_header(
        b'{"retention_policy": {"age": 3600}, "delete_on_empty": {"min_age_secs": 300}}'
    ) == StreamConfigLayer(
        retention_policy=RetentionPolicy(3600), delete_on_empty_min_age_seconds=300
    )
    assert decode_stream_config_header(b'{ "retention_policy" : { "age" : 60 } }') == (
        StreamConfigLayer(retention_policy=RetentionPolicy(60))
    )
    assert decode_stream_config_header(b'{"timestamping":{}}') == StreamConfigLayer()
    with pytest.raises(JsonError, match="expected an object"):
        decode_stream_config_header(b"null")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ('{"age":1}', RetentionPolicy(1)),
        (f'{{"age":{U64_MAX}}}', RetentionPolicy(U64_MAX)),
        ('{"infinite":{}}', INFINITE),
        ('{"infinite":{"whatever":[1]}}', INFINITE),
    ],
)
def test_retention_is_an_age_or_infinite(policy: str, expected: RetentionPolicy) -> None:
    config = decode_stream_config(f'{{"retention_policy":{policy}}}'.encode())
    assert config == StreamConfigLayer(retention_policy=expected)


@pytest.mark.parametrize(
    "policy",
    [
        '"infinite"',
        "{}",
        "60",
        "[]",
        '{"age":1,"infinite":{}}',
        '{"age":1,"age":1}',
        '{"age":1,"x":1}',
        '{"x":1}',
        '{"age":null}',
        '{"age":-1}',
        '{"age":1.5}',
        '{"age":"1"}',
        '{"age":18446744073709551616}',
        '{"infinite":null}',
        '{"infinite":true}',
        '{"infinite":{},"infinite":{}}',
    ],
)
def test_any_other_retention_is_malformed_in_bodies_and_patches(policy: str) -> None:
    body = f'{{"retention_policy":{policy}}}'.encode()
    for decode in (decode_stream_config, decode_stream_patch):
        with pytest.raises(JsonError, match=r"^retention_policy"):
            decode(body)


@pytest.mark.parametrize(
    ("decode", "body", "path"),
    [
        (decode_stream_config, '{"retention_policy":{"age":0}}', "retention_policy"),
        (decode_stream_patch, '{"retention_policy":{"age":0}}', "retention_policy"),
        (
            decode_create_stream,
            '{"stream":"s","config":{"retention_policy":{"age":0}}}',
            "config.retention_policy",
        ),
        (
            decode_basin_patch,
            '{"default_stream_config":{"retention_policy":{"age":0}}}',
            "default_stream_config.retention_policy",
        ),
        (
            decode_ensure_basin,
            '{"config":{"default_stream_config":{"retention_policy":{"age":0}}}}',
            "config.default_stream_config.retention_policy",
        ),
    ],
)
def test_a_retention_age_of_zero_is_well_formed_but_not_allowed(
    decode: Callable[[bytes], object], body: str, path: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(body.encode())
    assert str(caught.value) == f"{path}: retention age must be at least 1 second"


def test_an_unknown_storage_class_is_well_formed_but_not_allowed() -> None:
    for decode in (decode_stream_config, decode_stream_patch):
        with pytest.raises(InvalidInput, match=r"^storage_class: unknown storage class `bogus`"):
            decode(b'{"storage_class":"bogus"}')


def test_what_is_malformed_is_reported_before_what_is_not_allowed() -> None:
    with pytest.raises(JsonError, match=r"^timestamping.uncapped: expected true or false"):
        decode_stream_config(b'{"retention_policy":{"age":0},"timestamping":{"uncapped":1}}')


@pytest.mark.parametrize(
    ("decode", "body", "problem"),
    [
        (decode_create_basin, "{}", "basin: this member is required"),
        (decode_create_basin, '{"basin":null}', "basin: expected a string"),
        (decode_create_basin, '{"basin":"short"}', "basin: basin name must be at least 8"),
        (decode_create_basin, '{"basin":"Bad_Basin"}', "basin: basin name must start with"),
        (decode_create_basin, '{"basin":"test-basin","location":"aws/us"}', "location: location"),
        (decode_create_basin, '{"basin":"test-basin","basin":"x"}', "member `basin` is repeated"),
        (decode_create_basin, '{"basin":"test-basin","config":[]}', "config: expected an object"),
        (decode_ensure_basin, '{"location":""}', "location: location name must not be empty"),
        (decode_create_stream, "{}", "stream: this member is required"),
        (decode_create_stream, '{"stream":""}', "stream: stream name must not be empty"),
        (decode_create_stream, '{"stream":".."}', "stream: stream name must not be"),
        (decode_create_stream, r'{"stream":"a\u0000"}', "stream: stream name must not contain"),
        (decode_create_stream, r'{"stream":"\ud800"}', "stream: the string has a lone surrogate"),
        (decode_stream_config, '{"storage_class":7}', "storage_class: expected a string"),
        (decode_stream_config, '{"timestamping":{"mode":"x"}}', "timestamping.mode: unknown value"),
        (decode_stream_config, '{"timestamping":{"mode":"Arrival"}}', "timestamping.mode: unknown"),
        (decode_stream_config, '{"timestamping":[]}', "timestamping: expected an object"),
        (decode_stream_config, '{"delete_on_empty":{"min_age_secs":null}}', "min_age_secs: expec"),
        (decode_stream_config, '{"delete_on_empty":{"min_age_secs":true}}', "min_age_secs: expec"),
        (decode_stream_config, '{"delete_on_empty":{"min_age_secs":-0}}', "min_age_secs: expected"),
        (
            decode_ensure_basin,
            '{"config":{"default_stream_config":{"timestamping":{"uncapped":0}}}}',
            "config.default_stream_config.timestamping.uncapped: expected true or false",
        ),
        (
            decode_ensure_basin,
            '{"config":{"create_stream_on_read":null}}',
            "config.create_stream_on_read: expected true or false",
        ),
        (
            decode_ensure_basin,
            '{"config":{"stream_cipher":"rot13"}}',
            "config.stream_cipher: unknown value `rot13`, expected one of `aegis-256`",
        ),
        (
            decode_ensure_basin,
            '{"config":{"stream_cipher":null,"stream_cipher":null}}',
            "config: member `stream_cipher` is repeated",
        ),
        (decode_basin_patch, '{"create_stream_on_append":null}', "create_stream_on_append: expec"),
        (decode_basin_patch, '{"create_stream_on_read":null}', "create_stream_on_read: expected"),
        (decode_basin_patch, '{"default_stream_config":7}', "default_stream_config: expected an"),
        (decode_stream_patch, '{"delete_on_empty":{"min_age_secs":1.0}}', "min_age_secs: expected"),
        (
            decode_stream_patch,
            '{"timestamping":{"mode":7}}',
            "timestamping.mode: expected a st",
        ),
    ],
)
def test_what_is_malformed_is_named_by_its_path(
    decode: Callable[[bytes], object], body: str, problem: str
) -> None:
    with pytest.raises(JsonError) as caught:
        decode(body.encode())
    assert problem in str(caught.value)


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(
    "body",
    [
        *["", " ", "{", "not json", "{} {}", "[]", '"text"', "7", "true", "NaN", '{"x":NaN}'],
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_what_is_no_json_object_is_malformed(decode: Callable[[bytes], object], body: str) -> None:
    with pytest.raises(JsonError):
        decode(body.encode())


# --- patches ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "patch", ["{}", '{"timestamping":{}}', '{"delete_on_empty":{}}', '{"x":1}']
)
def test_a_patch_of_a_stream_may_change_nothing(patch: str) -> None:
    assert decode_stream_patch(patch.encode()) == StreamReconfiguration()
    in_basin = f'{{"default_stream_config":{patch}}}'.encode()
    assert decode_basin_patch(in_basin) == BasinReconfiguration()


def test_a_patch_sets_what_has_a_value() -> None:
    patch = decode_stream_patch(
        b'{"storage_class":"express","retention_policy":{"infinite":{}},'
        b'"timestamping":{"mode":"client-require","uncapped":false},'
        b'"delete_on_empty":{"min_age_secs":0}}'
    )
    assert patch == StreamReconfiguration(
        StorageClass.EXPRESS,
        INFINITE,
        TimestampingMode.CLIENT_REQUIRE,
        timestamping_uncapped=False,
        delete_on_empty_min_age_seconds=0,
    )


@pytest.mark.parametrize(
    ("patch", "change"),
    [
        ('{"storage_class":null}', StreamReconfiguration(storage_class=None)),
        ('{"retention_policy":null}', StreamReconfiguration(retention_policy=None)),
        (
            '{"timestamping":null}',
            StreamReconfiguration(timestamping_mode=None, timestamping_uncapped=None),
        ),
        ('{"timestamping":{"mode":null}}', StreamReconfiguration(timestamping_mode=None)),
        ('{"timestamping":{"uncapped":null}}', StreamReconfiguration(timestamping_uncapped=None)),
        ('{"delete_on_empty":null}', StreamReconfiguration(delete_on_empty_min_age_seconds=None)),
        (
            '{"delete_on_empty":{"min_age_secs":null}}',
            StreamReconfiguration(delete_on_empty_min_age_seconds=None),
        ),
    ],
)
def test_a_null_in_a_patch_clears(patch: str, change: StreamReconfiguration) -> None:
    assert decode_stream_patch(patch.encode()) == change
    in_basin = decode_basin_patch(f'{{"default_stream_config":{patch}}}'.encode())
    assert in_basin == BasinReconfiguration(change)


def test_a_null_for_all_stream_defaults_clears_each_of_them() -> None:
    change = decode_basin_patch(b'{"default_stream_config":null}').default_stream_config
    full = StreamConfigLayer(
        StorageClass.STANDARD,
        INFINITE,
        TimestampingMode.ARRIVAL,
        timestamping_uncapped=True,
        delete_on_empty_min_age_seconds=9,
    )
    assert reconfigure_layer(full, change) == StreamConfigLayer()


def test_a_patch_of_a_basin_sets_or_clears_its_cipher_and_sets_its_flags() -> None:
    assert decode_basin_patch(b'{"stream_cipher":"aes-256-gcm"}') == BasinReconfiguration(
        stream_cipher=StreamCipher.AES_256_GCM
    )
    assert decode_basin_patch(b'{"stream_cipher":null}') == BasinReconfiguration(stream_cipher=None)
    flags = b'{"create_stream_on_append":false,"create_stream_on_read":true}'
    assert decode_basin_patch(flags) == BasinReconfiguration(
        create_stream_on_append=False, create_stream_on_read=True
    )


# --- output -----------------------------------------------------------------------------------


def test_a_default_stream_configuration_has_every_leaf() -> None:
    assert encode_stream_config(StreamConfig()) == (
        b'{"storage_class":"express","retention_policy":{"age":604800},'
        b'"timestamping":{"mode":"client-prefer","uncapped":false},'
        b'"delete_on_empty":{"min_age_secs":0}}'
    )


def test_infinite_retention_is_an_empty_object() -> None:
    encoded = encode_stream_config(StreamConfig(StorageClass.STANDARD, INFINITE))
    assert encoded.startswith(b'{"storage_class":"standard","retention_policy":{"infinite":{}},')


def test_a_default_basin_configuration_has_all_four_members() -> None:
    assert encode_basin_config(BasinConfig()) == (
        b'{"default_stream_config":null,"stream_cipher":null,'
        b'"create_stream_on_append":false,"create_stream_on_read":false}'
    )


@pytest.mark.parametrize(
    ("layer", "shown"),
    [
        (
            StreamConfigLayer(delete_on_empty_min_age_seconds=0),
            '{"storage_class":null,"retention_policy":null,"timestamping":null,'
            '"delete_on_empty":{"min_age_secs":0}}',
        ),
        (
            StreamConfigLayer(StorageClass.EXPRESS, timestamping_uncapped=False),
            '{"storage_class":"express","retention_policy":null,'
            '"timestamping":{"mode":null,"uncapped":false},"delete_on_empty":null}',
        ),
        (
            StreamConfigLayer(
                retention_policy=RetentionPolicy(U64_MAX),
                timestamping_mode=TimestampingMode.ARRIVAL,
            ),
            '{"storage_class":null,"retention_policy":{"age":18446744073709551615},'
            '"timestamping":{"mode":"arrival","uncapped":null},"delete_on_empty":null}',
        ),
    ],
)
def test_stream_defaults_show_what_is_unset_as_null(layer: StreamConfigLayer, shown: str) -> None:
    encoded = encode_basin_config(BasinConfig(layer)).decode()
    assert encoded.startswith(f'{{"default_stream_config":{shown},"stream_cipher":null,')


def test_a_basin_shows_its_times_and_its_state() -> None:
    active = BasinInfo(BasinName("test-basin"), None, 1_700_000_000_120, None)
    assert control_json.encode_basin_info(active) == (
        b'{"name":"test-basin","location":null,"created_at":"2023-11-14T22:13:20.12Z",'
        b'"deleted_at":null,"state":"active"}'
    )
    deleting = BasinInfo(
        BasinName("test-basin"), LocationName("local:dev"), 1_700_000_000_000, 1_700_000_000_001
    )
    assert control_json.encode_basin_info(deleting) == (
        b'{"name":"test-basin","location":"local:dev","created_at":"2023-11-14T22:13:20Z",'
        b'"deleted_at":"2023-11-14T22:13:20.001Z","state":"deleting"}'
    )


def test_a_stream_shows_its_times_and_its_cipher() -> None:
    plain = StreamInfo(StreamName("日本/語"), 0, None, None)
    assert control_json.encode_stream_info(plain).decode() == (
        '{"name":"日本/語","created_at":"1970-01-01T00:00:00Z","deleted_at":null,"cipher":null}'
    )
    sealed = StreamInfo(StreamName("s"), 951_782_400_999, 1, StreamCipher.AEGIS_256)
    assert control_json.encode_stream_info(sealed) == (
        b'{"name":"s","created_at":"2000-02-29T00:00:00.999Z",'
        b'"deleted_at":"1970-01-01T00:00:00.001Z","cipher":"aegis-256"}'
    )


def test_a_page_has_its_items_and_says_whether_there_are_more() -> None:
    streams = (
        StreamInfo(StreamName("a"), 0, None, None),
        StreamInfo(StreamName("b"), 0, None, None),
    )
    page = stdlib_json.loads(control_json.encode_stream_page(Page(streams, has_more=True)))
    assert [stream["name"] for stream in page["streams"]] == ["a", "b"]
    assert page["has_more"] is True
    empty: Page[BasinInfo] = Page((), has_more=False)
    assert control_json.encode_basin_page(empty) == b'{"basins":[],"has_more":false}'


# --- properties -------------------------------------------------------------------------------

layers = st.builds(
    StreamConfigLayer,
    st.none() | st.sampled_from(StorageClass),
    st.none() | st.builds(RetentionPolicy, st.none() | st.integers(1, U64_MAX)),
    st.none() | st.sampled_from(TimestampingMode),
    st.none() | st.booleans(),
    st.none() | st.integers(0, U64_MAX),
)
basin_configs = st.builds(
    BasinConfig, layers, st.none() | st.sampled_from(StreamCipher), st.booleans(), st.booleans()
)


@settings(deadline=None, max_examples=50)
@given(basin_configs)
def test_a_basin_configuration_can_be_sent_back_as_it_was_got(config: BasinConfig) -> None:
    assert decode_ensure_basin(b'{"config":%b}' % encode_basin_config(config)) == config


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *[
                        "basin",
                        "stream",
                        "config",
                        "default_stream_config",
                        "retention_policy",
                        "age",
                    ],
                    *["timestamping", "mode", "storage_class", "delete_on_empty", "min_age_secs"],
                ]
            ),
            inner,
        )
    ),
    max_leaves=9,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=40) | json_values.map(lambda value: stdlib_json.dumps(value).encode()))
def test_any_body_is_a_request_or_refused(body: bytes) -> None:
    for decode in DECODERS:
        with suppress(JsonError, InvalidInput):
            assert decode(body) is not None
