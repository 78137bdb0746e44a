from s2lite.api.asgi import Receive, Response, Scope, Send, send_response
from s2lite.api.cors import Cors
from tests.fakes.asgi_client import AsgiClient


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send_response(send, Response(404, b"no", ((b"vary", b"accept-encoding"),)))


client = AsgiClient(Cors(app))


async def test_a_preflight_of_any_path_is_granted_what_it_asks_for() -> None:
    reply = await client.request(
        "OPTIONS",
        "/nowhere",
        origin="https://example.com",
        access_control_request_method="PATCH",
        access_control_request_headers="s2-basin, content-type",
    )
    assert (reply.status, reply.body) == (200, b"")
    assert reply.header("access-control-allow-origin") == "https://example.com"
    assert reply.header("access-control-allow-methods") == "PATCH"
    assert reply.header("access-control-allow-headers") == "s2-basin, content-type"
    assert reply.header("access-control-allow-credentials") == "true"
    assert reply.header("access-control-max-age") is None


async def test_every_other_response_names_the_origin() -> None:
    reply = await client.request("GET", "/nowhere", origin="https://example.com")
    assert reply.status == 404
    assert reply.header("access-control-allow-origin") == "https://example.com"
    assert reply.header("access-control-allow-credentials") == "true"
    assert reply.header("vary") == (
        "accept-encoding, origin, access-control-request-method, access-control-request-headers"
    )
    assert reply.header("access-control-allow-methods") is None


async def test_without_an_origin_none_is_allowed() -> None:
    reply = await client.request("GET", "/nowhere")
    assert reply.header("access-control-allow-origin") is None
