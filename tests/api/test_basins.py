from typing import Any

import pytest

from tests.fakes.asgi_client import AsgiClient, Reply

BASINS = "/v1/basins"
ONE = "/v1/basins/my-basin-1"
NO_CONFIG = {
    "default_stream_config": None,
    "stream_cipher": None,
    "create_stream_on_append": False,
    "create_stream_on_read": False,
}


async def create(
    client: AsgiClient, name: object = "my-basin-1", token: str | None = None, **members: object
) -> Reply:
    headers = {} if token is None else {"s2_request_token": token}
    return await client.request_json("POST", BASINS, {"basin": name, **members}, **headers)


async def config(client: AsgiClient) -> Any:
    reply = await client.request("GET", ONE)
    assert reply.status == 200
    return reply.json()


def outcome(reply: Reply) -> tuple[int, str | None]:
    """The status, and the provision result or the error code."""
    result = reply.header("s2-provision-result")
    return reply.status, result if reply.status < 400 else reply.code


class TestCreate:
    async def test_answers_with_the_info(self, bare: AsgiClient) -> None:
        reply = await create(bare)
        assert outcome(reply) == (201, "created")
        assert reply.header("content-type") == "application/json"
        info = reply.json()
        assert info.pop("created_at").endswith("Z")
        assert info == {
            "name": "my-basin-1",
            "location": None,
            "deleted_at": None,
            "state": "active",
        }

    async def test_twice_is_a_conflict_without_a_token(self, bare: AsgiClient) -> None:
        await create(bare)
        assert outcome(await create(bare)) == (409, "resource_already_exists")
        assert outcome(await create(bare, token="")) == (409, "resource_already_exists")

    async def test_twice_with_a_token_is_a_replay_of_the_same_config(
        self, bare: AsgiClient
    ) -> None:
        first = await create(bare, token="")
        configs: list[object] = [None, {}, {"default_stream_config": {}}]
        for same in configs:
            again = await create(bare, token="", config=same)
            assert outcome(again) == (201, "noop")
            assert again.json() == first.json()
        other = {"create_stream_on_read": True}
        assert outcome(await create(bare, token="", config=other))[0] == 409
        assert outcome(await create(bare, token="t"))[0] == 409
        assert outcome(await create(bare))[0] == 409

    async def test_replay_does_not_mind_later_changes(self, bare: AsgiClient) -> None:
        await create(bare, token="t")
        await bare.request_json("PUT", ONE, {"config": {"create_stream_on_read": True}})
        assert outcome(await create(bare, token="t")) == (201, "noop")
        assert (await config(bare))["create_stream_on_read"] is True

    @pytest.mark.parametrize("name", ["a" * 8, "a" * 48, "0-basin-0", "a--b--c--d"])
    async def test_accepts_names(self, bare: AsgiClient, name: str) -> None:
        assert (await create(bare, name)).status == 201

    @pytest.mark.parametrize(
        "name",
        ["", "short", "a" * 7, "a" * 49, "My-basin-1", "my_basin_1", "-my-basin", "my-basin-", 1],
    )
    async def test_refuses_other_names(self, bare: AsgiClient, name: object) -> None:
        assert outcome(await create(bare, name)) == (400, "bad_json")

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ("", 400, "bad_json"),
            ("{", 400, "bad_json"),
            ("{}", 400, "bad_json"),
            ("null", 400, "bad_json"),
            ('{"basin":"my-basin-1"} x', 400, "bad_json"),
            ('{"basin":"my-basin-1","location":"aws/us"}', 400, "bad_json"),
            ('{"basin":"my-basin-1","config":{"create_stream_on_read":null}}', 400, "bad_json"),
            ('{"basin":"my-basin-1","config":{"stream_cipher":"rot13"}}', 400, "bad_json"),
            (
                '{"basin":"my-basin-1","config":'
                '{"default_stream_config":{"retention_policy":{"age":0}}}}',
                422,
                "invalid",
            ),
            (
                '{"basin":"my-basin-1","config":'
                '{"default_stream_config":{"retention_policy":{"age":1.5}}}}',
                400,
                "bad_json",
            ),
            (
                '{"basin":"my-basin-1","config":{"default_stream_config":{"storage_class":"x"}}}',
                422,
                "invalid",
            ),
        ],
    )
    async def test_refuses_bad_bodies(
        self, bare: AsgiClient, body: str, status: int, code: str
    ) -> None:
        reply = await bare.request("POST", BASINS, body, content_type="application/json")
        assert outcome(reply) == (status, code)
        assert (await bare.request("GET", ONE)).status == 404

    async def test_wants_json_by_name(self, bare: AsgiClient) -> None:
        body = '{"basin":"my-basin-1","unknown":1,"location":"aws:us-east-1"}'
        assert (await bare.request("POST", BASINS, body)).code == "bad_json"
        reply = await bare.request("POST", BASINS, body, content_type="text/plain")
        assert reply.code == "bad_json"
        reply = await bare.request("POST", BASINS, body, content_type="application/vnd.x+json")
        assert reply.status == 201

    async def test_looks_at_the_token_before_the_body(self, bare: AsgiClient) -> None:
        reply = await bare.request("POST", BASINS, "{", s2_request_token="x" * 37)
        assert outcome(reply) == (400, "bad_header")

    async def test_refuses_a_body_over_2_mib(self, bare: AsgiClient) -> None:
        body = b" " * (2 * 1024 * 1024 + 1)
        reply = await bare.request("POST", BASINS, body, content_type="application/json")
        assert outcome(reply) == (400, "bad_json")

    async def test_reads_a_compressed_body(self, bare: AsgiClient) -> None:
        reply = await bare.request(
            "POST", BASINS, b"junk", content_type="application/json", content_encoding="gzip"
        )
        assert outcome(reply) == (400, "bad_json")


class TestConfig:
    async def test_of_a_basin_without_one_has_every_key(self, bare: AsgiClient) -> None:
        await create(bare)
        assert await config(bare) == NO_CONFIG

    async def test_comes_back_as_it_was_given(self, bare: AsgiClient) -> None:
        given = {
            "default_stream_config": {
                "storage_class": "standard",
                "retention_policy": {"infinite": {}},
                "timestamping": {"mode": "arrival", "uncapped": None},
                "delete_on_empty": {"min_age_secs": 0},
            },
            "stream_cipher": "aes-256-gcm",
            "create_stream_on_append": True,
            "create_stream_on_read": True,
        }
        assert (await create(bare, config=given)).status == 201
        assert await config(bare) == given
        reply = await bare.request_json("PUT", ONE, {"config": given})
        assert outcome(reply) == (200, "noop")

    @pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
    async def test_of_an_unknown_basin_is_not_found(self, bare: AsgiClient, method: str) -> None:
        reply = await bare.request(method, ONE, "{}", content_type="application/json")
        assert outcome(reply) == (404, "basin_not_found")

    @pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
    async def test_of_what_is_no_name_is_a_bad_path(self, bare: AsgiClient, method: str) -> None:
        path = "/v1/basins/Bad_Name"
        assert outcome(await bare.request(method, path, "{")) == (400, "bad_path")


class TestEnsure:
    async def test_creates_then_updates_then_does_nothing(self, bare: AsgiClient) -> None:
        for wanted, expected in (
            (True, (201, "created")),
            (False, (200, "updated")),
            (False, (200, "noop")),
        ):
            body = {"config": {"create_stream_on_append": wanted}}
            reply = await bare.request_json("PUT", ONE, body)
            assert outcome(reply) == expected
            assert reply.json()["name"] == "my-basin-1"
            assert (await config(bare))["create_stream_on_append"] is wanted

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            (b"", None),
            (b"garbage", None),
            (b"", "application/json"),
            (b"{}", "application/json"),
            (b"null", "application/json"),
            (b'{"config":null}', "application/json"),
        ],
    )
    async def test_without_a_config_resets_it(
        self, bare: AsgiClient, body: bytes, content_type: str | None
    ) -> None:
        await create(bare, config={"create_stream_on_append": True})
        headers = {} if content_type is None else {"content_type": content_type}
        assert outcome(await bare.request("PUT", ONE, body, **headers)) == (200, "updated")
        assert await config(bare) == NO_CONFIG
        assert outcome(await bare.request("PUT", ONE, body, **headers)) == (200, "noop")

    async def test_of_another_content_type_is_bad_json(self, bare: AsgiClient) -> None:
        reply = await bare.request("PUT", ONE, "", content_type="text/plain")
        assert outcome(reply) == (400, "bad_json")

    async def test_forgets_what_it_does_not_mention(self, bare: AsgiClient) -> None:
        defaults = {"storage_class": "standard", "retention_policy": {"infinite": {}}}
        await create(
            bare, config={"default_stream_config": defaults, "create_stream_on_append": True}
        )
        body = {"config": {"create_stream_on_read": True}}
        assert outcome(await bare.request_json("PUT", ONE, body)) == (200, "updated")
        assert await config(bare) == {**NO_CONFIG, "create_stream_on_read": True}

    async def test_is_no_creation_to_replay(self, bare: AsgiClient) -> None:
        await bare.request("PUT", ONE)
        assert outcome(await create(bare, token="t")) == (409, "resource_already_exists")


class TestReconfigure:
    async def patch(self, client: AsgiClient, change: object) -> Reply:
        return await client.request_json("PATCH", ONE, change)

    async def test_sets_keeps_and_clears(self, bare: AsgiClient) -> None:
        await create(bare)
        change = {
            "default_stream_config": {
                "storage_class": "express",
                "retention_policy": {"infinite": {}},
                "timestamping": {"uncapped": True},
            },
            "create_stream_on_append": True,
        }
        reply = await self.patch(bare, change)
        assert reply.status == 200
        assert reply.json() == await config(bare)
        assert reply.json()["create_stream_on_append"] is True

        await self.patch(bare, {"default_stream_config": {"timestamping": {"mode": "arrival"}}})
        await self.patch(bare, {"default_stream_config": {"storage_class": None}})
        assert (await config(bare))["default_stream_config"] == {
            "storage_class": None,
            "retention_policy": {"infinite": {}},
            "timestamping": {"mode": "arrival", "uncapped": True},
            "delete_on_empty": None,
        }
        await self.patch(bare, {"default_stream_config": None})
        assert (await config(bare))["default_stream_config"] is None
        assert (await config(bare))["create_stream_on_append"] is True

    async def test_of_nothing_changes_nothing(self, bare: AsgiClient) -> None:
        await create(bare, config={"create_stream_on_read": True})
        before = await config(bare)
        reply = await self.patch(bare, {"default_stream_config": {"timestamping": {}}})
        assert (reply.status, reply.json()) == (200, before)

    @pytest.mark.parametrize(
        ("change", "status", "code"),
        [
            ({"create_stream_on_append": None}, 400, "bad_json"),
            ({"default_stream_config": {"retention_policy": {"age": 0}}}, 422, "invalid"),
            ([], 400, "bad_json"),
        ],
    )
    async def test_refused_changes_nothing(
        self, bare: AsgiClient, change: object, status: int, code: str
    ) -> None:
        await create(bare)
        assert outcome(await self.patch(bare, change)) == (status, code)
        assert await config(bare) == NO_CONFIG

    async def test_is_checked_before_the_basin_is_looked_up(self, bare: AsgiClient) -> None:
        change = {"default_stream_config": {"retention_policy": {"age": 0}}}
        assert outcome(await self.patch(bare, change)) == (422, "invalid")

    async def test_needs_a_body(self, bare: AsgiClient) -> None:
        assert outcome(await bare.request("PATCH", ONE)) == (400, "bad_json")


class TestDelete:
    async def test_of_an_empty_basin_frees_the_name_in_the_end(self, bare: AsgiClient) -> None:
        await create(bare)
        reply = await bare.request("DELETE", ONE)
        assert (reply.status, reply.body) == (202, b"")
        assert reply.header("content-type") is None

    async def test_of_a_basin_with_streams_is_pending_or_done(self, bare: AsgiClient) -> None:
        await create(bare)
        await bare.request_json("POST", "/v1/streams", {"stream": "s"}, s2_basin="my-basin-1")
        assert (await bare.request("DELETE", ONE)).status == 202
        listed = (await bare.request("GET", BASINS)).json()["basins"]
        assert [info["state"] for info in listed] in ([], ["deleting"])
        assert outcome(await bare.request("DELETE", ONE)) in {
            (202, None),
            (404, "basin_not_found"),
        }


class TestList:
    async def listed(self, client: AsgiClient, query: str = "") -> tuple[list[str], bool]:
        page = (await client.request("GET", f"{BASINS}?{query}")).json()
        assert set(page) == {"basins", "has_more"}
        return [info["name"] for info in page["basins"]], page["has_more"]

    async def test_of_nothing_is_empty(self, bare: AsgiClient) -> None:
        assert await self.listed(bare) == ([], False)

    async def test_goes_page_by_page(self, bare: AsgiClient) -> None:
        names = [f"basin-{letter}-0" for letter in "abcdefg"]
        for name in reversed(names):
            await create(bare, name)
        await create(bare, "other-basin")
        assert await self.listed(bare, "prefix=basin-&limit=3") == (names[:3], True)
        query = f"prefix=basin-&limit=3&start_after={names[2]}"
        assert await self.listed(bare, query) == (names[3:6], True)
        query = f"prefix=basin-&limit=1&start_after={names[5]}"
        assert await self.listed(bare, query) == (names[6:], False)
        assert await self.listed(bare, "start_after=zzz") == ([], False)
        assert await self.listed(bare, "prefix=basin-&start_after=a") == (names, False)
        for limit in ("0", "1001", "18446744073709551615"):
            assert await self.listed(bare, f"prefix=&limit={limit}") == (
                [*names, "other-basin"],
                False,
            )

    @pytest.mark.parametrize(
        "query", ["limit=-1", "limit=x", "limit=", "limit=1.0", "prefix=Abc", "start_after=-a"]
    )
    async def test_refuses_bad_queries(self, bare: AsgiClient, query: str) -> None:
        assert outcome(await bare.request("GET", f"{BASINS}?{query}")) == (400, "bad_query")
