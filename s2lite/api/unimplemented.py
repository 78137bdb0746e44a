"""Access tokens, usage metrics and locations: requests are parsed, and then answered 501.

What can be wrong with such a request is reported as it would be if they were implemented.
"""

from collections.abc import Collection
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from s2lite.api.asgi import Request, Response
from s2lite.api.errors import BadRequest, ErrorCode
from s2lite.api.headers import basin_in_path, path_value, stream_in_path
from s2lite.api.listing import list_request
from s2lite.api.query import Query
from s2lite.api.routes import Route, read_json_body
from s2lite.model.errors import InvalidName, JsonError, NotImplementedYet
from s2lite.model.names import parse_location_name

T = TypeVar("T")

_MAX_TOKEN_ID_BYTES: Final = 96
_INTERVALS: Final = ("minute", "hour", "day")
_ACCOUNT_SETS: Final = ("active-basins", "account-ops", "estimated-billable-usage")
_BASIN_SETS: Final = (
    "storage",
    "append-ops",
    "read-ops",
    "read-throughput",
    "append-throughput",
    "basin-ops",
)
_STREAM_SETS: Final = ("storage",)


class _IssueRequest(msgspec.Struct):
    """The members of a token's request that every one of them has."""

    id: str
    scope: dict[str, Any]
    auto_prefix_streams: bool | None = None
    expires_at: str | None = None


async def list_tokens(request: Request) -> Response:
    """Parse a request for a page of access tokens."""
    list_request(request, _parse_token_part, _parse_token_part)
    _refuse()


async def issue_token(request: Request) -> Response:
    """Parse a request for a new access token."""
    body = _decode(await read_json_body(request), _IssueRequest)
    _parse_token_id(body.id)
    _refuse()


async def revoke_token(request: Request, token: str) -> Response:
    """Parse a request to revoke an access token."""
    path_value(token, _parse_token_id)
    _refuse()


async def account_metrics(request: Request) -> Response:
    """Parse a request for the account's usage."""
    _check_metrics_query(request, _ACCOUNT_SETS)
    _refuse()


async def basin_metrics(request: Request, basin: str) -> Response:
    """Parse a request for a basin's usage."""
    basin_in_path(basin)
    _check_metrics_query(request, _BASIN_SETS)
    _refuse()


async def stream_metrics(request: Request, basin: str, stream: str) -> Response:
    """Parse a request for a stream's usage."""
    basin_in_path(basin)
    stream_in_path(stream)
    _check_metrics_query(request, _STREAM_SETS)
    _refuse()


async def locations(request: Request) -> Response:
    """Refuse a request about locations that has nothing to parse."""
    _refuse()


async def set_default_location(request: Request) -> Response:
    """Parse a request to change the default location."""
    parse_location_name(_decode(await read_json_body(request), str))
    _refuse()


UNIMPLEMENTED: Final = (
    Route("GET", "/v1/access-tokens", list_tokens),
    Route("POST", "/v1/access-tokens", issue_token),
    Route("DELETE", "/v1/access-tokens/<token>", revoke_token),
    Route("GET", "/v1/metrics", account_metrics),
    Route("GET", "/v1/metrics/<basin>", basin_metrics),
    Route("GET", "/v1/metrics/<basin>/<stream>", stream_metrics),
    Route("GET", "/v1/locations", locations),
    Route("GET", "/v1/locations/default", locations),
    Route("PUT", "/v1/locations/default", set_default_location),
)
"""The routes of this module."""


def _refuse() -> NoReturn:
    raise NotImplementedYet("this endpoint")


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JsonError(str(error)) from None


def _parse_token_part(text: str) -> str:
    if len(text.encode()) > _MAX_TOKEN_ID_BYTES or "\0" in text:
        raise InvalidName("access token id", f"must be at most {_MAX_TOKEN_ID_BYTES} bytes, no NUL")
    return text


def _parse_token_id(text: str) -> str:
    if text in ("", ".", ".."):
        raise InvalidName("access token id", "must not be empty, `.` or `..`")
    return _parse_token_part(text)


def _check_metrics_query(request: Request, sets: Collection[str]) -> None:
    query = Query(request.query_string)
    _check_choice("set", query.text("set"), sets)
    query.u32("start")
    query.u32("end")
    if (interval := query.text("interval")) is not None:
        _check_choice("interval", interval, _INTERVALS)


def _check_choice(name: str, value: str | None, choices: Collection[str]) -> None:
    if value not in choices:
        raise BadRequest(ErrorCode.BAD_QUERY, f"{name} must be one of: {', '.join(choices)}")
