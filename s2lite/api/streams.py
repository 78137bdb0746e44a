"""Streams of the basin that the `s2-basin` header names: list, create, ensure and so on."""

import attrs

from s2lite.api.asgi import Request, Response, json_response
from s2lite.api.headers import basin_header, request_token_header, stream_in_path
from s2lite.api.listing import list_request
from s2lite.api.provisioning import create_response, ensure_response
from s2lite.api.routes import Route, read_json_body, read_optional_json_body
from s2lite.backend.backend import Backend
from s2lite.codec import control_json
from s2lite.model.config import StreamConfigLayer
from s2lite.model.names import parse_stream_prefix, parse_stream_start_after


@attrs.frozen
class Streams:
    """The handlers of `/v1/streams`."""

    _backend: Backend

    def routes(self) -> list[Route]:
        """List what is handled here."""
        one = "/v1/streams/<stream>"
        return [
            Route("GET", "/v1/streams", self.list),
            Route("POST", "/v1/streams", self.create),
            Route("GET", one, self.get_config),
            Route("PUT", one, self.ensure),
            Route("PATCH", one, self.reconfigure),
            Route("DELETE", one, self.delete),
        ]

    async def list(self, request: Request) -> Response:
        """List a page of streams."""
        basin = basin_header(request)
        wanted = list_request(request, parse_stream_prefix, parse_stream_start_after)
        page = await self._backend.list_streams(basin, wanted)
        return json_response(control_json.encode_stream_page(page))

    async def create(self, request: Request) -> Response:
        """Create a stream, or recognise the replay of its creation."""
        token = request_token_header(request)
        basin = basin_header(request)
        body = control_json.decode_create_stream(await read_json_body(request))
        made = await self._backend.create_stream(basin, body.stream, body.config, token)
        return create_response(control_json.encode_stream_info(made.info), made.result)

    async def get_config(self, request: Request, stream: str) -> Response:
        """Give a stream's configuration."""
        basin, name = basin_header(request), stream_in_path(stream)
        config = await self._backend.stream_config(basin, name)
        return json_response(control_json.encode_stream_config(config))

    async def ensure(self, request: Request, stream: str) -> Response:
        """Make a stream be there with exactly this configuration."""
        basin, name = basin_header(request), stream_in_path(stream)
        body = await read_optional_json_body(request)
        config = StreamConfigLayer() if body is None else control_json.decode_stream_config(body)
        made = await self._backend.ensure_stream(basin, name, config)
        return ensure_response(control_json.encode_stream_info(made.info), made.result)

    async def reconfigure(self, request: Request, stream: str) -> Response:
        """Change parts of a stream's configuration."""
        basin, name = basin_header(request), stream_in_path(stream)
        change = control_json.decode_stream_patch(await read_json_body(request))
        config = await self._backend.reconfigure_stream(basin, name, change)
        return json_response(control_json.encode_stream_config(config))

    async def delete(self, request: Request, stream: str) -> Response:
        """Begin to delete a stream: it takes no more appends once this is answered."""
        basin, name = basin_header(request), stream_in_path(stream)
        await self._backend.delete_stream(basin, name)
        return Response(202)
