import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2lite.model.config import (
    KEEP,
    BasinConfig,
    BasinReconfiguration,
    RetentionPolicy,
    StorageClass,
    StreamCipher,
    StreamConfig,
    StreamConfigLayer,
    StreamReconfiguration,
    TimestampingMode,
    parse_storage_class,
    reconfigure_basin,
    reconfigure_layer,
    reconfigure_stream,
    resolve,
)
from s2lite.model.errors import InvalidInput

LEAVES = [field.name for field in attrs.fields(StreamConfig)]
CLEAR_ALL = StreamReconfiguration(None, None, None, None, None)

layers = st.builds(
    StreamConfigLayer,
    st.none() | st.sampled_from(StorageClass),
    st.none() | st.builds(RetentionPolicy, st.none() | st.integers(1, 5)),
    st.none() | st.sampled_from(TimestampingMode),
    st.none() | st.booleans(),
    st.none() | st.integers(0, 5),
)


def test_the_system_defaults_are_express_seven_days_client_prefer_capped_and_no_deletion() -> None:
    assert StreamConfig() == StreamConfig(
        StorageClass.EXPRESS,
        RetentionPolicy(604_800),
        TimestampingMode.CLIENT_PREFER,
        timestamping_uncapped=False,
        delete_on_empty_min_age_seconds=0,
    )


def test_a_retention_age_of_zero_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 1 second"):
        RetentionPolicy(0)


def test_retention_may_be_infinite() -> None:
    assert RetentionPolicy(None).age_ms is None


@pytest.mark.parametrize(
    ("age_seconds", "age_ms"),
    [
        (1, 1000),
        (9_223_372_036_854_775, 9_223_372_036_854_775_000),
        (9_223_372_036_854_776, None),
        (2**64 - 1, None),
    ],
)
def test_an_age_whose_milliseconds_do_not_fit_63_bits_never_expires(
    age_seconds: int, age_ms: int | None
) -> None:
    assert RetentionPolicy(age_seconds).age_ms == age_ms


def test_an_unknown_storage_class_is_refused_naming_those_on_offer() -> None:
    assert parse_storage_class("standard") is StorageClass.STANDARD
    with pytest.raises(InvalidInput, match="`bogus`, use `standard` or `express`"):
        parse_storage_class("bogus")


def test_a_leaf_resolves_to_the_layers_else_the_basins_else_the_systems() -> None:
    layer = StreamConfigLayer(retention_policy=RetentionPolicy(None), timestamping_uncapped=True)
    default = StreamConfigLayer(
        retention_policy=RetentionPolicy(86_400), timestamping_mode=TimestampingMode.ARRIVAL
    )
    assert resolve(layer, default) == StreamConfig(
        retention_policy=RetentionPolicy(None),
        timestamping_mode=TimestampingMode.ARRIVAL,
        timestamping_uncapped=True,
    )


def test_an_explicit_zero_or_false_overrides_the_basins_default() -> None:
    default = StreamConfigLayer(timestamping_uncapped=True, delete_on_empty_min_age_seconds=60)
    explicit = StreamConfigLayer(timestamping_uncapped=False, delete_on_empty_min_age_seconds=0)
    assert resolve(explicit, default) == StreamConfig()
    assert resolve(StreamConfigLayer(), default).delete_on_empty_min_age_seconds == 60


@settings(deadline=None, max_examples=50)
@given(layers, layers)
def test_every_leaf_resolves_by_itself(
    layer: StreamConfigLayer, default: StreamConfigLayer
) -> None:
    resolved = resolve(layer, default)
    for leaf in LEAVES:
        candidates = [getattr(each, leaf) for each in (layer, default, StreamConfig())]
        expected = next(value for value in candidates if value is not None)
        assert getattr(resolved, leaf) == expected


@settings(deadline=None, max_examples=50)
@given(layers, st.sets(st.sampled_from(LEAVES)), st.sets(st.sampled_from(LEAVES)), layers)
def test_a_change_keeps_clears_or_sets_each_leaf_by_itself(
    layer: StreamConfigLayer, kept: set[str], cleared: set[str], values: StreamConfigLayer
) -> None:
    wanted = {leaf: None if leaf in cleared else getattr(values, leaf) for leaf in LEAVES}
    change = StreamReconfiguration(
        **{leaf: KEEP if leaf in kept else value for leaf, value in wanted.items()}
    )
    changed = reconfigure_layer(layer, change)
    for leaf in LEAVES:
        assert getattr(changed, leaf) == (getattr(layer, leaf) if leaf in kept else wanted[leaf])


def test_a_change_of_nothing_changes_nothing() -> None:
    config = StreamConfig(StorageClass.STANDARD, RetentionPolicy(None))
    assert reconfigure_stream(config, StreamReconfiguration(), StreamConfigLayer()) == config


def test_changing_the_mode_leaves_uncapped_alone() -> None:
    layer = StreamConfigLayer(timestamping_uncapped=True)
    change = StreamReconfiguration(timestamping_mode=TimestampingMode.ARRIVAL)
    assert reconfigure_layer(layer, change) == StreamConfigLayer(
        timestamping_mode=TimestampingMode.ARRIVAL, timestamping_uncapped=True
    )


def test_a_leaf_cleared_on_a_stream_takes_the_basins_current_default() -> None:
    default = StreamConfigLayer(
        StorageClass.STANDARD,
        RetentionPolicy(None),
        TimestampingMode.ARRIVAL,
        timestamping_uncapped=True,
        delete_on_empty_min_age_seconds=300,
    )
    assert reconfigure_stream(StreamConfig(), CLEAR_ALL, default) == resolve(
        StreamConfigLayer(), default
    )


def test_a_leaf_cleared_on_a_stream_without_basin_defaults_takes_the_systems() -> None:
    config = StreamConfig(StorageClass.STANDARD, RetentionPolicy(5), timestamping_uncapped=True)
    assert reconfigure_stream(config, CLEAR_ALL, StreamConfigLayer()) == StreamConfig()


def test_a_basins_cipher_can_be_kept_changed_and_cleared() -> None:
    config = BasinConfig(stream_cipher=StreamCipher.AEGIS_256)
    kept = reconfigure_basin(config, BasinReconfiguration(create_stream_on_read=True))
    assert kept == BasinConfig(stream_cipher=StreamCipher.AEGIS_256, create_stream_on_read=True)
    changed = reconfigure_basin(
        config, BasinReconfiguration(stream_cipher=StreamCipher.AES_256_GCM)
    )
    assert changed.stream_cipher is StreamCipher.AES_256_GCM
    assert reconfigure_basin(config, BasinReconfiguration(stream_cipher=None)) == BasinConfig()


def test_clearing_all_of_a_basins_stream_defaults_leaves_none_set() -> None:
    config = BasinConfig(StreamConfigLayer(StorageClass.STANDARD), create_stream_on_append=True)
    changed = reconfigure_basin(config, BasinReconfiguration(CLEAR_ALL))
    assert changed == BasinConfig(create_stream_on_append=True)


def test_configurations_compare_and_hash_by_their_content() -> None:
    one = BasinConfig(StreamConfigLayer(retention_policy=RetentionPolicy(5)))
    same = BasinConfig(StreamConfigLayer(retention_policy=RetentionPolicy(5)))
    other = BasinConfig(StreamConfigLayer(delete_on_empty_min_age_seconds=0))
    assert one == same
    assert len({one, same, other, BasinConfig()}) == 3
