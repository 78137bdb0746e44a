import pytest

from s2lite.api.control_plane import build_control_plane
from s2lite.api.unimplemented import UNIMPLEMENTED
from tests.fakes.asgi_client import AsgiClient

client = AsgiClient(build_control_plane(UNIMPLEMENTED))
JSON = {"content_type": "application/json"}


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "/v1/access-tokens", ""),
        ("GET", "/v1/access-tokens?prefix=..&limit=0", ""),
        ("POST", "/v1/access-tokens", '{"id":"t","scope":{},"unknown":1}'),
        ("DELETE", "/v1/access-tokens/..%2Fx", ""),
        ("GET", "/v1/metrics?set=active-basins&start=0&end=1", ""),
        ("GET", "/v1/metrics?set=estimated-billable-usage&interval=day", ""),
        ("GET", "/v1/metrics/my-basin-1?set=append-ops", ""),
        ("GET", "/v1/metrics/my-basin-1/a%2Fb?set=storage", ""),
        ("GET", "/v1/locations", ""),
        ("GET", "/v1/locations/default", ""),
        ("PUT", "/v1/locations/default", '"aws:us-east-1"'),
    ],
)
async def test_a_good_request_is_not_implemented(method: str, target: str, body: str) -> None:
    reply = await client.request(method, target, body, **JSON)
    assert (reply.status, reply.code) == (501, "not_implemented")


@pytest.mark.parametrize(
    ("method", "target", "body", "code"),
    [
        ("GET", "/v1/access-tokens?limit=x", "", "bad_query"),
        ("GET", "/v1/access-tokens?prefix=" + "x" * 97, "", "bad_query"),
        ("POST", "/v1/access-tokens", "{}", "bad_json"),
        ("POST", "/v1/access-tokens", '{"id":"..","scope":{}}', "bad_json"),
        ("POST", "/v1/access-tokens", '{"id":"t","scope":[]}', "bad_json"),
        ("DELETE", "/v1/access-tokens/%2E%2E", "", "bad_path"),
        ("DELETE", "/v1/access-tokens/" + "x" * 97, "", "bad_path"),
        ("GET", "/v1/metrics", "", "bad_query"),
        ("GET", "/v1/metrics?set=storage", "", "bad_query"),
        ("GET", "/v1/metrics?set=active-basins&start=4294967296", "", "bad_query"),
        ("GET", "/v1/metrics?set=active-basins&interval=week", "", "bad_query"),
        ("GET", "/v1/metrics/Bad?set=", "", "bad_path"),
        ("GET", "/v1/metrics/my-basin-1/%FF?set=", "", "bad_path"),
        ("PUT", "/v1/locations/default", '"a b"', "bad_json"),
        ("PUT", "/v1/locations/default", "{}", "bad_json"),
        ("PUT", "/v1/locations/default", b"\xff", "bad_json"),
    ],
)
async def test_a_bad_request_is_told_what_is_wrong(
    method: str, target: str, body: str, code: str
) -> None:
    reply = await client.request(method, target, body, **JSON)
    assert (reply.status, reply.code) == (400, code)
