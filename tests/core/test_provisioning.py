"""What control-plane requests decide, state by state, as the tables of the API have it."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2lite.core import provisioning
from s2lite.core.provisioning import Decision, NewStream
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
)
from s2lite.model.errors import (
    BasinDeletionPending,
    BasinExists,
    BasinNotFound,
    S2LiteError,
    StreamDeletionPending,
    StreamExists,
    StreamNotFound,
)
from s2lite.model.log import (
    BasinCreated,
    BasinDeleted,
    BasinReconfigured,
    BasinRecord,
    BasinRemoved,
    CatalogChange,
    StreamCreated,
    StreamDeleted,
    StreamId,
    StreamReconfigured,
    StreamRecord,
    StreamRemoved,
)
from s2lite.model.names import BasinName, StreamName
from s2lite.model.resources import (
    BasinInfo,
    Provisioned,
    ProvisionResult,
    StreamInfo,
)

BASIN = BasinName("test-basin")
STREAM = StreamName("s")
ID = StreamId(b"i" * 16)
CREATED_AT, LATER = 1_000, 2_000
EMPTY = StreamConfigLayer()
STANDARD = StreamConfigLayer(storage_class=StorageClass.STANDARD)
ARRIVAL = StreamConfigLayer(timestamping_mode=TimestampingMode.ARRIVAL)
ON_READ = BasinConfig(create_stream_on_read=True)


@attrs.define(eq=False)
class World:
    """A catalog of a few dicts, whose changes take effect at once."""

    basins: dict[str, BasinRecord] = attrs.field(factory=dict)
    streams: dict[tuple[str, str], StreamRecord] = attrs.field(factory=dict)

    def basin(self, name: BasinName) -> BasinRecord | None:
        return self.basins.get(name)

    def stream(self, basin: BasinName, name: StreamName) -> StreamRecord | None:
        return self.streams.get((basin, name))

    def has_streams(self, basin: BasinName) -> bool:
        return any(key[0] == basin for key in self.streams)

    def make(self, *changes: CatalogChange) -> "World":
        for change in changes:
            self._make(change)
        return self

    def _make(self, change: CatalogChange) -> None:
        match change:
            case BasinCreated(record):
                assert record.name not in self.basins
                self.basins[record.name] = record
            case BasinReconfigured(name, config):
                self.basins[name] = attrs.evolve(self.basins[name], config=config)
            case BasinDeleted(name, at):
                self.basins[name] = attrs.evolve(self.basins[name], deleted_at_ms=at)
            case BasinRemoved(name):
                del self.basins[name]
            case StreamCreated(stream):
                assert (stream.basin, stream.name) not in self.streams
                self.streams[stream.basin, stream.name] = stream
            case StreamReconfigured(stream_id, stream_config):
                key = self._key(stream_id)
                self.streams[key] = attrs.evolve(self.streams[key], config=stream_config)
            case StreamDeleted(stream_id, at):
                key = self._key(stream_id)
                self.streams[key] = attrs.evolve(self.streams[key], deleted_at_ms=at)
            case StreamRemoved(stream_id):
                del self.streams[self._key(stream_id)]

    def _key(self, stream_id: StreamId) -> tuple[str, str]:
        return next(key for key, each in self.streams.items() if each.stream_id == stream_id)


def basin_record(**facts: object) -> BasinRecord:
    return attrs.evolve(BasinRecord(BASIN, BasinConfig(), CREATED_AT), **facts)  # type: ignore[arg-type]  # typed at the call


def stream_record(**facts: object) -> StreamRecord:
    plain = StreamRecord(ID, BASIN, STREAM, StreamConfig(), CREATED_AT)
    return attrs.evolve(plain, **facts)  # type: ignore[arg-type]  # typed at the call


def nothing() -> World:
    return World()


def with_basin(**facts: object) -> World:
    return World().make(BasinCreated(basin_record(**facts)))


def with_stream(**facts: object) -> World:
    return with_basin().make(StreamCreated(stream_record(**facts)))


def pending_basin() -> World:
    return with_basin(deleted_at_ms=5)


def pending_basin_live_stream() -> World:
    return with_stream().make(BasinDeleted(BASIN, 5))


def pending_stream() -> World:
    return with_stream(deleted_at_ms=5)


def both_pending() -> World:
    return pending_stream().make(BasinDeleted(BASIN, 5))


NEW = NewStream(ID, LATER)
OTHER_NEW = NewStream(StreamId(b"j" * 16), LATER)
Outcome = ProvisionResult | type[S2LiteError] | None

Request = Callable[[World], Decision[Any]]


def outcome(world: World, request: Request) -> Outcome:
    try:
        decision = request(world)
    except S2LiteError as error:
        return type(error)
    answer = decision.answer
    return answer.result if isinstance(answer, Provisioned) else None


def create(world: World) -> Decision[Any]:
    return provisioning.create_basin(world, BASIN, BasinConfig(), None, LATER)


def ensure(world: World) -> Decision[Any]:
    return provisioning.ensure_basin(world, BASIN, BasinConfig(), LATER)


def patch(world: World) -> Decision[Any]:
    return provisioning.reconfigure_basin_config(world, BASIN, BasinReconfiguration())


def delete(world: World) -> Decision[Any]:
    return provisioning.delete_basin(world, BASIN, LATER)


def create_stream(world: World) -> Decision[Any]:
    return provisioning.create_stream(world, BASIN, STREAM, EMPTY, None, NEW)


def ensure_stream(world: World) -> Decision[Any]:
    return provisioning.ensure_stream(world, BASIN, STREAM, EMPTY, NEW)


def patch_stream(world: World) -> Decision[Any]:
    return provisioning.reconfigure_stream_config(world, BASIN, STREAM, StreamReconfiguration())


def auto_create(world: World) -> Decision[Any]:
    return provisioning.auto_create_stream(world, BASIN, STREAM, EMPTY, NEW)


CREATED, NOOP = ProvisionResult.CREATED, ProvisionResult.NOOP


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (create, [CREATED, BasinExists, BasinDeletionPending]),
        (ensure, [CREATED, NOOP, BasinDeletionPending]),
        (patch, [BasinNotFound, None, BasinDeletionPending]),
        (delete, [BasinNotFound, None, None]),
    ],
)
def test_what_a_basin_request_answers_in_each_state(
    request_: Request, expected: list[Outcome]
) -> None:
    worlds = (nothing, with_basin, pending_basin)
    assert [outcome(world(), request_) for world in worlds] == expected


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (
            create_stream,
            [
                BasinNotFound,
                CREATED,
                StreamExists,
                StreamDeletionPending,
                BasinDeletionPending,
                BasinDeletionPending,
                BasinDeletionPending,
            ],
        ),
        (
            ensure_stream,
            [
                BasinNotFound,
                CREATED,
                NOOP,
                StreamDeletionPending,
                BasinDeletionPending,
                BasinDeletionPending,
                BasinDeletionPending,
            ],
        ),
        (
            patch_stream,
            [
                BasinNotFound,
                StreamNotFound,
                None,
                StreamDeletionPending,
                BasinDeletionPending,
                BasinDeletionPending,
                BasinDeletionPending,
            ],
        ),
        (
            auto_create,
            [
                BasinNotFound,
                None,
                None,
                StreamDeletionPending,
                BasinDeletionPending,
                BasinDeletionPending,
                BasinDeletionPending,
            ],
        ),
    ],
)
def test_what_a_stream_request_answers_in_each_state(
    request_: Request, expected: list[Outcome]
) -> None:
    worlds = (
        nothing,
        with_basin,
        with_stream,
        pending_stream,
        pending_basin,
        pending_basin_live_stream,
        both_pending,
    )
    assert [outcome(world(), request_) for world in worlds] == expected


# --- create -----------------------------------------------------------------------------------


def test_a_new_basin_is_what_the_request_says() -> None:
    decision = provisioning.create_basin(nothing(), BASIN, ON_READ, None, LATER)
    assert decision.answer == Provisioned(BasinInfo(BASIN, None, LATER, None), CREATED)
    assert decision.changes == (BasinCreated(BasinRecord(BASIN, ON_READ, LATER)),)


def test_a_new_stream_has_its_config_resolved_and_the_cipher_of_its_basin() -> None:
    config = BasinConfig(default_stream_config=STANDARD, stream_cipher=StreamCipher.AEGIS_256)
    decision = provisioning.create_stream(
        with_basin(config=config), BASIN, STREAM, ARRIVAL, None, NEW
    )
    expected = StreamRecord(
        ID,
        BASIN,
        STREAM,
        StreamConfig(StorageClass.STANDARD, timestamping_mode=TimestampingMode.ARRIVAL),
        LATER,
        StreamCipher.AEGIS_256,
    )
    assert decision.changes == (StreamCreated(expected),)
    info = StreamInfo(STREAM, LATER, None, StreamCipher.AEGIS_256)
    assert decision.answer == Provisioned(info, CREATED)


def create_basin_with(
    world: World, token: str | None, config: BasinConfig
) -> Decision[Provisioned[BasinInfo]]:
    return provisioning.create_basin(world, BASIN, config, token, LATER)


def create_stream_with(
    world: World, token: str | None, config: StreamConfigLayer
) -> Decision[Provisioned[StreamInfo]]:
    return provisioning.create_stream(world, BASIN, STREAM, config, token, OTHER_NEW)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("token", "token", True),
        ("", "", True),
        ("token", "other", False),
        ("token", None, False),
        (None, "token", False),
        (None, None, False),
        ("", None, False),
    ],
)
def test_a_replay_needs_the_token_of_the_request_that_created(
    first: str | None, second: str | None, same: bool
) -> None:
    world = World().make(*create_basin_with(World(), first, ON_READ).changes)
    world.make(*create_stream_with(world, first, STANDARD).changes)
    if same:
        assert create_basin_with(world, second, ON_READ).answer.result is NOOP
        assert create_stream_with(world, second, STANDARD).answer.result is NOOP
    else:
        with pytest.raises(BasinExists):
            create_basin_with(world, second, ON_READ)
        with pytest.raises(StreamExists):
            create_stream_with(world, second, STANDARD)


def test_a_replay_with_another_config_is_a_conflict() -> None:
    world = World().make(*create_basin_with(World(), "t", ON_READ).changes)
    world.make(*create_stream_with(world, "t", STANDARD).changes)
    with pytest.raises(BasinExists):
        create_basin_with(world, "t", BasinConfig())
    with pytest.raises(StreamExists):
        create_stream_with(world, "t", EMPTY)


@pytest.mark.parametrize(
    "other",
    [
        StreamConfigLayer(delete_on_empty_min_age_seconds=0),
        StreamConfigLayer(storage_class=StorageClass.EXPRESS),
        StreamConfigLayer(timestamping_uncapped=False),
        StreamConfigLayer(retention_policy=RetentionPolicy(604_800)),
    ],
)
def test_a_default_that_is_spelled_out_is_another_request(other: StreamConfigLayer) -> None:
    world = with_basin()
    world.make(*create_stream_with(world, "t", EMPTY).changes)
    with pytest.raises(StreamExists):
        create_stream_with(world, "t", other)


def test_a_replay_writes_nothing_and_answers_with_the_resource_as_it_is_now() -> None:
    cipher = StreamCipher.AES_256_GCM
    world = World().make(*create_basin_with(World(), "t", BasinConfig(EMPTY, cipher)).changes)
    world.make(*create_stream_with(world, "t", EMPTY).changes)
    world.make(
        *provisioning.ensure_basin(world, BASIN, BasinConfig(), 7).changes,
        *provisioning.ensure_stream(world, BASIN, STREAM, STANDARD, NEW).changes,
    )
    replayed = create_stream_with(world, "t", EMPTY)
    assert replayed.changes == ()
    assert replayed.answer == Provisioned(StreamInfo(STREAM, LATER, None, cipher), NOOP)
    basin = create_basin_with(world, "t", BasinConfig(EMPTY, cipher))
    assert basin == Decision(Provisioned(BasinInfo(BASIN, None, LATER, None), NOOP))


def test_a_resource_that_put_or_an_append_made_has_no_token() -> None:
    for make in (ensure_stream, auto_create):
        world = with_basin()
        world.make(*make(world).changes)
        with pytest.raises(StreamExists):
            create_stream_with(world, "t", EMPTY)
    world = World().make(*ensure(World()).changes)
    with pytest.raises(BasinExists):
        create_basin_with(world, "t", BasinConfig())


def test_the_matching_token_does_not_help_while_deletion_is_pending() -> None:
    world = World().make(*create_basin_with(World(), "t", ON_READ).changes)
    world.make(*create_stream_with(world, "t", STANDARD).changes)
    world.make(StreamDeleted(OTHER_NEW.stream_id, 5))
    with pytest.raises(StreamDeletionPending):
        create_stream_with(world, "t", STANDARD)
    world.make(BasinDeleted(BASIN, 5))
    with pytest.raises(BasinDeletionPending):
        create_basin_with(world, "t", ON_READ)


def test_a_removed_resource_is_forgotten_with_its_token() -> None:
    world = World().make(*create_basin_with(World(), "t", ON_READ).changes)
    world.make(*create_stream_with(world, "t", STANDARD).changes)
    world.make(StreamRemoved(OTHER_NEW.stream_id))
    assert create_stream_with(world, "other", EMPTY).answer.result is CREATED
    world.make(BasinRemoved(BASIN))
    assert create_basin_with(world, "other", BasinConfig()).answer.result is CREATED


# --- ensure -----------------------------------------------------------------------------------


def test_put_resets_what_it_does_not_mention() -> None:
    before = BasinConfig(STANDARD, StreamCipher.AEGIS_256, create_stream_on_append=True)
    world = with_basin(config=before)
    decision = provisioning.ensure_basin(world, BASIN, ON_READ, LATER)
    assert decision.answer == Provisioned(
        BasinInfo(BASIN, None, CREATED_AT, None), ProvisionResult.UPDATED
    )
    assert decision.changes == (BasinReconfigured(BASIN, ON_READ),)


def test_put_of_what_is_stored_writes_nothing() -> None:
    world = with_basin(config=ON_READ)
    assert provisioning.ensure_basin(world, BASIN, ON_READ, LATER).changes == ()


def test_put_on_a_basin_compares_the_unresolved_form() -> None:
    spelled_out = BasinConfig(StreamConfigLayer(storage_class=StorageClass.EXPRESS))
    decision = provisioning.ensure_basin(with_basin(), BASIN, spelled_out, LATER)
    assert decision.answer.result is ProvisionResult.UPDATED


def test_put_on_a_stream_compares_the_resolved_form() -> None:
    spelled_out = StreamConfigLayer(storage_class=StorageClass.EXPRESS)
    decision = provisioning.ensure_stream(with_stream(), BASIN, STREAM, spelled_out, OTHER_NEW)
    assert decision == Decision(Provisioned(StreamInfo(STREAM, CREATED_AT, None, None), NOOP))


def test_put_on_a_stream_resolves_against_the_defaults_of_now_and_keeps_the_rest() -> None:
    world = with_stream(cipher=StreamCipher.AEGIS_256)
    world.make(BasinReconfigured(BASIN, BasinConfig(STANDARD)))
    decision = provisioning.ensure_stream(world, BASIN, STREAM, ARRIVAL, OTHER_NEW)
    target = StreamConfig(StorageClass.STANDARD, timestamping_mode=TimestampingMode.ARRIVAL)
    assert decision.changes == (StreamReconfigured(ID, target),)
    info = StreamInfo(STREAM, CREATED_AT, None, StreamCipher.AEGIS_256)
    assert decision.answer == Provisioned(info, ProvisionResult.UPDATED)


def test_a_changed_basin_default_alone_changes_no_stream() -> None:
    world = with_stream()
    decision = provisioning.reconfigure_basin_config(
        world,
        BASIN,
        BasinReconfiguration(StreamReconfiguration(storage_class=StorageClass.STANDARD)),
    )
    assert decision.changes == (BasinReconfigured(BASIN, BasinConfig(STANDARD)),)


# --- reconfigure ------------------------------------------------------------------------------


def test_patch_writes_even_what_changes_nothing() -> None:
    assert patch(with_basin()).changes == (BasinReconfigured(BASIN, BasinConfig()),)
    assert patch_stream(with_stream()).changes == (StreamReconfigured(ID, StreamConfig()),)


def test_what_patch_clears_takes_the_default_of_now_and_the_rest_stays() -> None:
    config = StreamConfig(StorageClass.EXPRESS, RetentionPolicy(60), TimestampingMode.ARRIVAL)
    world = with_stream(config=config).make(BasinReconfigured(BASIN, BasinConfig(STANDARD)))
    decision = provisioning.reconfigure_stream_config(
        world,
        BASIN,
        STREAM,
        StreamReconfiguration(storage_class=None, retention_policy=None),
    )
    expected = StreamConfig(StorageClass.STANDARD, timestamping_mode=TimestampingMode.ARRIVAL)
    assert decision == Decision(expected, (StreamReconfigured(ID, expected),))


# --- deletion ---------------------------------------------------------------------------------


def test_deleting_a_basin_marks_it_once() -> None:
    world = with_basin()
    decision = provisioning.delete_basin(world, BASIN, LATER)
    assert decision.changes == (BasinDeleted(BASIN, LATER),)
    world.make(*decision.changes)
    assert provisioning.delete_basin(world, BASIN, LATER + 1).changes == ()


def test_a_basin_is_removed_only_when_deleted_and_empty() -> None:
    for world in (nothing(), with_basin(), pending_basin_live_stream(), both_pending()):
        assert provisioning.remove_basin(world, BASIN).changes == ()
    assert provisioning.remove_basin(pending_basin(), BASIN).changes == (BasinRemoved(BASIN),)


def test_a_stream_is_removed_once_and_not_in_place_of_its_successor() -> None:
    deleted = stream_record(deleted_at_ms=5)
    assert provisioning.remove_stream(pending_stream(), deleted).changes == (StreamRemoved(ID),)
    assert provisioning.remove_stream(with_basin(), deleted).changes == ()
    successor = with_stream(stream_id=OTHER_NEW.stream_id)
    assert provisioning.remove_stream(successor, deleted).changes == ()


# --- replays, whatever happened in between ------------------------------------------------------

layers = st.builds(
    StreamConfigLayer,
    storage_class=st.none() | st.sampled_from(StorageClass),
    timestamping_uncapped=st.none() | st.booleans(),
    delete_on_empty_min_age_seconds=st.none() | st.integers(0, 1),
)
interference = st.one_of(
    st.builds(
        lambda config: (
            lambda world: provisioning.ensure_basin(world, BASIN, BasinConfig(config), LATER)
        ),
        layers,
    ),
    st.builds(
        lambda config: lambda world: provisioning.ensure_stream(world, BASIN, STREAM, config, NEW),
        layers,
    ),
    st.just(patch),
    st.just(patch_stream),
)


@given(layers, st.lists(interference, max_size=5), layers)
def test_a_create_is_recognised_by_its_own_config_whatever_happened_since(
    config: StreamConfigLayer, between: list[Request], other: StreamConfigLayer
) -> None:
    world = with_basin()
    world.make(*create_stream_with(world, "t", config).changes)
    for request in between:
        world.make(*request(world).changes)
    assert create_stream_with(world, "t", config).answer.result is NOOP
    if other != config:
        with pytest.raises(StreamExists):
            create_stream_with(world, "t", other)
