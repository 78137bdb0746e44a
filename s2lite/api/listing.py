"""Listings: the query that asks for a page."""

from collections.abc import Callable

from s2lite.api.asgi import Request
from s2lite.api.errors import ErrorCode, blamed_on
from s2lite.api.query import Query
from s2lite.model.resources import ListRequest


def list_request(
    request: Request, parse_prefix: Callable[[str], str], parse_start_after: Callable[[str], str]
) -> ListRequest:
    """Parse `prefix`, `start_after` and `limit`; raises `BadRequest`."""
    query = Query(request.query_string)
    prefix, start_after = query.text("prefix"), query.text("start_after")
    with blamed_on(ErrorCode.BAD_QUERY):
        return ListRequest(
            prefix=parse_prefix(prefix or ""),
            start_after=parse_start_after(start_after or ""),
            limit=query.u64("limit"),
        )
