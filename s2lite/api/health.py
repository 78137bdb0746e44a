"""What operators ask: is the server well, and what does it count."""

import json
from urllib.parse import parse_qs

import attrs
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from s2lite.api.asgi import HeaderList, Request, Response, json_response
from s2lite.api.routes import Route
from s2lite.backend.backend import Backend
from s2lite.model.errors import WriterFenced

_TEXT: HeaderList = ((b"content-type", b"text/plain; charset=utf-8"),)
_PROMETHEUS: HeaderList = ((b"content-type", b"text/plain; version=0.0.4"),)


@attrs.frozen
class Health:
    """The handlers of `/health`, its alias `/ping`, and `/metrics`."""

    _backend: Backend
    _registry: CollectorRegistry

    def routes(self) -> list[Route]:
        """List what is handled here."""
        return [
            Route("GET", "/health", self.health),
            Route("GET", "/ping", self.health),
            Route("GET", "/metrics", self.metrics),
        ]

    async def health(self, request: Request) -> Response:
        """Tell whether storage is open, and in `?detail` what was found damaged in it.

        Damage does not make a server unwell: it serves whatever is left. Nothing is asked of the
        object store.
        """
        failure = self._backend.health()
        status, answer = 200, "OK"
        if failure is not None:
            status, answer = 503, "Fenced" if isinstance(failure, WriterFenced) else "Panic"
        if "detail" in parse_qs(request.query_string.decode("latin-1"), keep_blank_values=True):
            return json_response(self._detail(answer), status)
        return Response(status, answer.encode(), _TEXT)

    def _detail(self, answer: str) -> bytes:
        damage = self._backend.damage
        detail = {
            "status": answer,
            "catalog_is_whole": damage.catalog_is_whole,
            "damaged_objects": damage.count,
            "damaged": [
                {"key": each.key, "reason": each.reason, "streams": len(each.streams)}
                for each in damage.objects
            ],
        }
        return json.dumps(detail).encode()

    async def metrics(self, request: Request) -> Response:
        """Give all metrics as Prometheus text."""
        return Response(200, generate_latest(self._registry), _PROMETHEUS)
