"""What operators ask: is the server well, and what does it count."""

import attrs
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from s2lite.api.asgi import HeaderList, Request, Response
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
        """Tell whether storage is open; nothing is asked of the object store."""
        failure = self._backend.health()
        if failure is not None:
            reason = b"Fenced" if isinstance(failure, WriterFenced) else b"Panic"
            return Response(503, reason, _TEXT)
        return Response(200, b"OK", _TEXT)

    async def metrics(self, request: Request) -> Response:
        """Give all metrics as Prometheus text."""
        return Response(200, generate_latest(self._registry), _PROMETHEUS)
