import pytest
from prometheus_client import CollectorRegistry

from actors.clock import SystemClock
from s2lite.api.app import build_app
from s2lite.api.asgi import ASGIApp, Event
from s2lite.backend.backend import Backend
from tests.fakes.asgi_client import AsgiClient

RECORDS = "/v1/streams/s/records"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/nope",
        "/v1/basins/",
        "/v1//basins",
        "//v1/basins",
        "/v1/basins/test-basin/",
        "/v1/basins/test-basin/x",
        "/v1/streams/",
        "/v1/streams/a/b",
        "/v1/streams/s/",
        "/v1/streams//records",
        "/v1/streams//records/tail",
        "/v1/streams/s/records/",
        "/v1/streams/s/records/tail/",
        "/v1/streams/s/records/x",
        "/v1/access-tokens/",
        "/health/",
        "/static/x",
        "*",
        "",
        "x",
        "http://example.com",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "BREW"])
async def test_an_unknown_path_is_404_without_a_body(
    client: AsgiClient, method: str, path: str
) -> None:
    reply = await client.request(method, path)
    assert (reply.status, reply.body) == (404, b"")
    assert reply.header("content-type") is None
    assert reply.header("content-length") == "0"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/basins", "GET,HEAD,POST"),
        ("POST", "/v1/basins/test-basin", "GET,HEAD,PUT,DELETE,PATCH"),
        ("BREW", "/v1/streams", "GET,HEAD,POST"),
        ("POST", "/v1/streams/a%2Fb", "GET,HEAD,PUT,DELETE,PATCH"),
        ("PUT", RECORDS, "GET,HEAD,POST"),
        ("DELETE", RECORDS, "GET,HEAD,POST"),
        ("POST", RECORDS + "/tail", "GET,HEAD"),
        ("GET", "/v1/access-tokens/x", "DELETE"),
        ("POST", "/health", "GET,HEAD"),
        ("POST", "/metrics", "GET,HEAD"),
    ],
)
async def test_a_known_path_names_its_methods_to_any_other(
    client: AsgiClient, method: str, path: str, allow: str
) -> None:
    reply = await client.request(method, path)
    assert (reply.status, reply.body) == (405, b"")
    assert reply.header("allow") == allow
    assert reply.header("content-type") is None


@pytest.mark.parametrize(
    "path",
    [
        "/v1/basins",
        "/v1/basins/test-basin",
        "/v1/streams",
        "/v1/streams/s",
        RECORDS + "/tail",
        RECORDS,
        "/v1/locations",
        "/health",
        "/metrics",
    ],
)
async def test_head_is_get_without_the_body(client: AsgiClient, path: str) -> None:
    got, head = await client.request("GET", path), await client.request("HEAD", path)
    assert head.status == got.status
    assert head.headers == got.headers
    assert got.body or path == "/metrics"
    assert head.body == b""


@pytest.mark.parametrize(
    "name", ["a/b", ".a", "...", "a b+c", "日本", "%2F", "a|b;c?d#e&f", "\n", "é" * 256]
)
async def test_a_stream_with_any_name_is_found_by_its_encoded_path(
    client: AsgiClient, name: str
) -> None:
    assert (await client.request_json("POST", "/v1/streams", {"stream": name})).status == 201
    segment = "".join(f"%{byte:02X}" for byte in name.encode())
    assert (await client.request("GET", f"/v1/streams/{segment}")).status == 200
    assert (await client.request("GET", f"/v1/streams/{segment}/records/tail")).status == 200


@pytest.mark.parametrize("segment", ["%FF", "%2E%2E", "..", ".", "a%00", "a" * 513])
@pytest.mark.parametrize("suffix", ["", "/records", "/records/tail"])
async def test_a_segment_that_is_no_name_is_a_bad_path(
    client: AsgiClient, segment: str, suffix: str
) -> None:
    reply = await client.request("GET", f"/v1/streams/{segment}{suffix}")
    assert (reply.status, reply.code) == (400, "bad_path")
    assert len(reply.pieces) == 1


@pytest.mark.parametrize(
    ("method", "path"), [("POST", RECORDS), ("GET", RECORDS), ("POST", "/v1/basins")]
)
async def test_an_unknown_content_encoding_comes_before_all_else(
    client: AsgiClient, method: str, path: str
) -> None:
    reply = await client.request(method, path, content_encoding="br", s2_basin="Bad")
    assert (reply.status, reply.body) == (415, b"")
    assert reply.header("accept-encoding") == "zstd,gzip"


@pytest.mark.parametrize("path", ["/v1/basins", "/health", RECORDS + "/tail"])
async def test_a_target_may_be_a_whole_url(client: AsgiClient, path: str) -> None:
    assert (await client.request("GET", "http://example.com:80" + path)).status == 200


async def test_other_routes_do_not_mind_the_basin_header(bare: AsgiClient) -> None:
    assert (await bare.request("GET", "/v1/basins", s2_basin="Bad")).status == 200
    assert (await bare.request("GET", "/health", s2_basin="Bad")).status == 200


async def test_hostile_headers_do_not_change_an_answer(client: AsgiClient) -> None:
    reply = await client.request(
        "GET",
        "/v1/basins",
        host="\xff" * 300,
        cookie="\xff=;;",
        content_length="x",
        authorization="whatever",
        transfer_encoding="junk",
    )
    assert reply.status == 200


async def test_large_answers_are_compressed_for_who_asks(client: AsgiClient) -> None:
    for number in range(20):
        await client.request_json("POST", "/v1/streams", {"stream": f"stream-{number}"})
    reply = await client.request("GET", "/v1/streams", accept_encoding="gzip")
    assert reply.header("content-encoding") == "gzip"
    assert "accept-encoding" in (reply.header("vary") or "")


class TestCors:
    async def test_is_on_by_default_for_errors_and_health_too(self, client: AsgiClient) -> None:
        for path in ("/nope", "/health", RECORDS):
            reply = await client.request("GET", path, origin="https://a.example")
            assert reply.header("access-control-allow-origin") == "https://a.example"
        assert (await client.request("OPTIONS", RECORDS)).status == 200

    async def test_can_be_off(self, backend: Backend, registry: CollectorRegistry) -> None:
        app = build_app(backend, clock=SystemClock(), registry=registry, cors=False)
        client = AsgiClient(app)
        reply = await client.request("GET", "/health", origin="https://a.example")
        assert reply.header("access-control-allow-origin") is None
        assert reply.header("vary") is None
        assert (await client.request("OPTIONS", RECORDS)).status == 405
        assert (await client.request("OPTIONS", "/v1/basins")).status == 405
        assert (await client.request("OPTIONS", "/nope")).status == 404


class TestProtocols:
    async def test_start_and_shutdown_are_acknowledged(self, app: ASGIApp) -> None:
        events: list[Event] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        sent: list[str] = []

        async def receive() -> Event:
            return events.pop(0)

        async def send(event: Event) -> None:
            sent.append(event["type"])

        await app({"type": "lifespan"}, receive, send)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    async def test_websockets_are_refused(self, app: ASGIApp) -> None:
        sent: list[str] = []

        async def receive() -> Event:
            return {"type": "websocket.connect"}

        async def send(event: Event) -> None:
            sent.append(event["type"])

        await app({"type": "websocket", "path": "/"}, receive, send)
        assert sent == ["websocket.close"]


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/basins"), ("PATCH", "/v1/streams/s")])
async def test_a_client_that_goes_inside_its_body_is_no_error(
    basin: AsgiClient, caplog: pytest.LogCaptureFixture, method: str, path: str
) -> None:
    async with basin.exchange(method, path, content_type="application/json") as exchange:
        await exchange.send(b'{"basin":')
        await exchange.disconnect()
        assert (await exchange.reply()).status == 400
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []
