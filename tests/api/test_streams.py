from typing import Any

import pytest

from tests.fakes.asgi_client import AsgiClient, Reply

STREAMS = "/v1/streams"
ONE = "/v1/streams/my%2Fstream"
SYSTEM_DEFAULTS = {
    "storage_class": "express",
    "retention_policy": {"age": 604800},
    "timestamping": {"mode": "client-prefer", "uncapped": False},
    "delete_on_empty": {"min_age_secs": 0},
}
CUSTOM = {
    "storage_class": "standard",
    "retention_policy": {"infinite": {}},
    "timestamping": {"mode": "arrival", "uncapped": True},
    "delete_on_empty": {"min_age_secs": 300},
}


async def create(
    client: AsgiClient, name: object = "my/stream", token: str | None = None, **members: object
) -> Reply:
    headers = {} if token is None else {"s2_request_token": token}
    return await client.request_json("POST", STREAMS, {"stream": name, **members}, **headers)


async def set_defaults(client: AsgiClient, defaults: object) -> None:
    change = {"default_stream_config": defaults}
    reply = await client.request_json("PATCH", "/v1/basins/test-basin", change)
    assert reply.status == 200


async def config(client: AsgiClient) -> Any:
    reply = await client.request("GET", ONE)
    assert reply.status == 200
    return reply.json()


def outcome(reply: Reply) -> tuple[int, str | None]:
    """The status, and the provision result or the error code."""
    result = reply.header("s2-provision-result")
    return reply.status, result if reply.status < 400 else reply.code


class TestCreate:
    async def test_answers_with_the_info(self, basin: AsgiClient) -> None:
        reply = await create(basin)
        assert outcome(reply) == (201, "created")
        info = reply.json()
        assert info.pop("created_at").endswith("Z")
        assert info == {"name": "my/stream", "deleted_at": None, "cipher": None}
        assert await config(basin) == SYSTEM_DEFAULTS

    async def test_resolves_over_the_defaults_of_the_basin(self, basin: AsgiClient) -> None:
        await set_defaults(basin, CUSTOM)
        await create(basin, config={"delete_on_empty": {}, "timestamping": {"uncapped": False}})
        assert await config(basin) == {
            **CUSTOM,
            "delete_on_empty": {"min_age_secs": 0},
            "timestamping": {"mode": "arrival", "uncapped": False},
        }

    async def test_twice_is_a_replay_only_with_the_same_token_and_config(
        self, basin: AsgiClient
    ) -> None:
        await create(basin, token="t")
        await set_defaults(basin, CUSTOM)
        assert outcome(await create(basin, token="t", config={})) == (201, "noop")
        assert outcome(await create(basin)) == (409, "resource_already_exists")
        assert outcome(await create(basin, token="u")) == (409, "resource_already_exists")
        other = {"storage_class": "express"}
        assert outcome(await create(basin, token="t", config=other))[0] == 409

    @pytest.mark.parametrize("name", ["x", "a" * 512, "a/b c", "日本語", "...", "\n"])
    async def test_accepts_names(self, basin: AsgiClient, name: str) -> None:
        assert (await create(basin, name)).status == 201

    @pytest.mark.parametrize("name", ["", "a" * 513, ".", "..", "a\0b", "\ud800", None, 1])
    async def test_refuses_other_names(self, basin: AsgiClient, name: object) -> None:
        assert outcome(await create(basin, name)) == (400, "bad_json")

    @pytest.mark.parametrize(
        ("bad", "status", "code"),
        [
            ({"retention_policy": {"age": 0}}, 422, "invalid"),
            ({"retention_policy": {}}, 400, "bad_json"),
            ({"retention_policy": "infinite"}, 400, "bad_json"),
            ({"retention_policy": {"age": 1, "infinite": {}}}, 400, "bad_json"),
            ({"storage_class": "bogus"}, 422, "invalid"),
            ({"timestamping": {"mode": "x"}}, 400, "bad_json"),
        ],
    )
    async def test_refuses_bad_configs(
        self, basin: AsgiClient, bad: object, status: int, code: str
    ) -> None:
        assert outcome(await create(basin, config=bad)) == (status, code)
        assert (await basin.request("GET", ONE)).status == 404

    async def test_checks_the_token_then_the_basin_then_the_body(self, bare: AsgiClient) -> None:
        reply = await bare.request("POST", STREAMS, "{", s2_request_token="x" * 37)
        assert "request token" in reply.json()["message"]
        reply = await bare.request("POST", STREAMS, "{")
        assert outcome(reply) == (400, "bad_header")
        reply = await bare.request(
            "POST", STREAMS, "{", s2_basin="other-basin", content_type="application/json"
        )
        assert outcome(reply) == (400, "bad_json")

    async def test_copies_the_cipher_of_the_basin(self, basin: AsgiClient) -> None:
        for cipher in ("aegis-256", "aes-256-gcm"):
            await basin.request_json("PATCH", "/v1/basins/test-basin", {"stream_cipher": cipher})
            assert (await create(basin, cipher)).json()["cipher"] == cipher
        listed = (await basin.request("GET", STREAMS)).json()["streams"]
        assert [info["cipher"] for info in listed] == ["aegis-256", "aes-256-gcm"]


class TestUnknownBasin:
    @pytest.mark.parametrize(
        ("method", "path", "status", "code"),
        [
            ("POST", STREAMS, 404, "basin_not_found"),
            ("PUT", ONE, 404, "basin_not_found"),
            ("PATCH", ONE, 404, "basin_not_found"),
            ("GET", ONE, 404, "stream_not_found"),
            ("DELETE", ONE, 404, "stream_not_found"),
        ],
    )
    async def test_is_told_where_it_is_looked_up(
        self, bare: AsgiClient, method: str, path: str, status: int, code: str
    ) -> None:
        body = {"stream": "s"} if method == "POST" else {}
        reply = await bare.request_json(method, path, body, s2_basin="other-basin")
        assert outcome(reply) == (status, code)

    async def test_has_no_streams(self, bare: AsgiClient) -> None:
        reply = await bare.request("GET", STREAMS, s2_basin="other-basin")
        assert (reply.status, reply.json()) == (200, {"streams": [], "has_more": False})


class TestOrderOfChecks:
    @pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
    async def test_header_then_path_then_body(self, bare: AsgiClient, method: str) -> None:
        reply = await bare.request(method, "/v1/streams/%FF", "{")
        assert outcome(reply) == (400, "bad_header")
        reply = await bare.request(method, "/v1/streams/%FF", "{", s2_basin="other-basin")
        assert outcome(reply) == (400, "bad_path")

    async def test_header_then_query(self, bare: AsgiClient) -> None:
        assert (await bare.request("GET", STREAMS + "?limit=x")).code == "bad_header"
        reply = await bare.request("GET", STREAMS + "?limit=x", s2_basin="other-basin")
        assert outcome(reply) == (400, "bad_query")


class TestEnsure:
    async def test_creates_then_updates_then_does_nothing(self, basin: AsgiClient) -> None:
        for body, expected in (
            ({}, (201, "created")),
            ({"storage_class": "express"}, (200, "noop")),
            ({"retention_policy": {"age": 3600}}, (200, "updated")),
            ({"retention_policy": {"age": 3600}}, (200, "noop")),
        ):
            reply = await basin.request_json("PUT", ONE, body)
            assert outcome(reply) == expected
            assert reply.json()["name"] == "my/stream"

    async def test_without_a_body_resets_to_the_defaults(self, basin: AsgiClient) -> None:
        await create(basin, config=CUSTOM)
        await set_defaults(basin, {"storage_class": "standard"})
        reply = await basin.request("PUT", ONE, "garbage")
        assert outcome(reply) == (200, "updated")
        assert await config(basin) == {**SYSTEM_DEFAULTS, "storage_class": "standard"}

    async def test_takes_a_bare_config(self, basin: AsgiClient) -> None:
        await basin.request_json("PUT", ONE, {"config": CUSTOM})
        assert await config(basin) == SYSTEM_DEFAULTS
        await basin.request_json("PUT", ONE, CUSTOM)
        assert await config(basin) == CUSTOM

    async def test_keeps_the_token_of_the_creation(self, basin: AsgiClient) -> None:
        given = {"storage_class": "standard"}
        await create(basin, token="t", config=given)
        await basin.request_json("PUT", ONE, {"timestamping": {"mode": "arrival"}})
        assert outcome(await create(basin, token="t", config=given)) == (201, "noop")
        assert (await config(basin))["storage_class"] == "express"


class TestReconfigure:
    async def patch(self, client: AsgiClient, change: object) -> Reply:
        return await client.request_json("PATCH", ONE, change)

    async def test_sets_one_leaf_and_keeps_the_others(self, basin: AsgiClient) -> None:
        await create(basin, config=CUSTOM)
        reply = await self.patch(basin, {"timestamping": {"mode": "client-require"}})
        expected = {**CUSTOM, "timestamping": {"mode": "client-require", "uncapped": True}}
        assert (reply.status, reply.json()) == (200, expected)
        assert await config(basin) == expected

    @pytest.mark.parametrize("change", [{}, {"delete_on_empty": {}}, {"timestamping": {}}])
    async def test_of_nothing_changes_nothing(self, basin: AsgiClient, change: object) -> None:
        await create(basin, config=CUSTOM)
        assert (await self.patch(basin, change)).json() == CUSTOM

    async def test_clears_to_the_current_defaults(self, basin: AsgiClient) -> None:
        nothing = dict.fromkeys(SYSTEM_DEFAULTS)
        await create(basin)
        await set_defaults(basin, CUSTOM)
        assert await config(basin) == SYSTEM_DEFAULTS
        assert (await self.patch(basin, nothing)).json() == CUSTOM
        await set_defaults(basin, None)
        assert (await self.patch(basin, nothing)).json() == SYSTEM_DEFAULTS

    async def test_to_an_age_of_zero_is_invalid(self, basin: AsgiClient) -> None:
        await create(basin)
        reply = await self.patch(basin, {"retention_policy": {"age": 0}})
        assert outcome(reply) == (422, "invalid")
        assert await config(basin) == SYSTEM_DEFAULTS

    async def test_holds_for_the_next_append(self, basin: AsgiClient) -> None:
        await create(basin)
        await self.patch(basin, {"timestamping": {"mode": "client-require"}})
        reply = await basin.request_json("POST", f"{ONE}/records", {"records": [{}]})
        assert outcome(reply) == (422, "invalid")
        record = {"timestamp": 123}
        reply = await basin.request_json("POST", f"{ONE}/records", {"records": [record]})
        assert reply.status == 200

    async def test_of_an_unknown_stream_is_not_found(self, basin: AsgiClient) -> None:
        assert outcome(await self.patch(basin, {})) == (404, "stream_not_found")


class TestDelete:
    async def test_is_accepted_and_then_pending_or_done(self, basin: AsgiClient) -> None:
        await create(basin)
        reply = await basin.request("DELETE", ONE)
        assert (reply.status, reply.body) == (202, b"")
        assert (await basin.request("DELETE", ONE)).status in {202, 404}
        assert outcome(await basin.request("GET", ONE)) in {
            (409, "stream_deletion_pending"),
            (404, "stream_not_found"),
        }

    async def test_of_an_unknown_stream_is_not_found(self, basin: AsgiClient) -> None:
        assert outcome(await basin.request("DELETE", ONE)) == (404, "stream_not_found")


class TestList:
    async def listed(self, client: AsgiClient, query: str = "") -> tuple[list[str], bool]:
        page = (await client.request("GET", f"{STREAMS}?{query}")).json()
        assert set(page) == {"streams", "has_more"}
        return [info["name"] for info in page["streams"]], page["has_more"]

    async def test_is_in_the_order_of_bytes(self, basin: AsgiClient) -> None:
        for name in ("b", "aa", "a/b", "a", "a/", "é"):
            await create(basin, name)
        assert await self.listed(basin) == (["a", "a/", "a/b", "aa", "b", "é"], False)
        assert await self.listed(basin, "prefix=a%2F") == (["a/", "a/b"], False)
        assert await self.listed(basin, "prefix=%C3%A9") == (["é"], False)
        assert await self.listed(basin, "start_after=a/b&limit=1") == (["aa"], True)
        assert await self.listed(basin, "start_after=é") == ([], False)
        assert await self.listed(basin, "prefix=..") == ([], False)

    @pytest.mark.parametrize("query", ["limit=-1", "prefix=" + "a" * 513, "prefix=%00"])
    async def test_refuses_bad_queries(self, basin: AsgiClient, query: str) -> None:
        assert outcome(await basin.request("GET", f"{STREAMS}?{query}")) == (400, "bad_query")
