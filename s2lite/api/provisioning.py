"""Answers to requests that create or ensure a resource."""

from s2lite.api.asgi import Response, json_response
from s2lite.model.resources import ProvisionResult


def create_response(body: bytes, result: ProvisionResult) -> Response:
    """Answer a POST: a replay of the request that created the resource looks like that one."""
    return _response(body, 201, result)


def ensure_response(body: bytes, result: ProvisionResult) -> Response:
    """Answer a PUT."""
    return _response(body, 201 if result is ProvisionResult.CREATED else 200, result)


def _response(body: bytes, status: int, result: ProvisionResult) -> Response:
    return json_response(body, status, ((b"s2-provision-result", result.value.encode()),))
