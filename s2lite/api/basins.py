"""Basins: list, create, ensure, reconfigure, delete."""

import attrs

from s2lite.api.asgi import Request, Response, json_response
from s2lite.api.headers import basin_in_path, request_token_header
from s2lite.api.listing import list_request
from s2lite.api.provisioning import create_response, ensure_response
from s2lite.api.routes import Route, read_json_body, read_optional_json_body
from s2lite.backend.backend import Backend
from s2lite.codec import control_json
from s2lite.model.config import BasinConfig
from s2lite.model.names import parse_basin_prefix, parse_basin_start_after


@attrs.frozen
class Basins:
    """The handlers of `/v1/basins`."""

    _backend: Backend

    def routes(self) -> list[Route]:
        """List what is handled here."""
        one = "/v1/basins/<basin>"
        return [
            Route("GET", "/v1/basins", self.list),
            Route("POST", "/v1/basins", self.create),
            Route("GET", one, self.get_config),
            Route("PUT", one, self.ensure),
            Route("PATCH", one, self.reconfigure),
            Route("DELETE", one, self.delete),
        ]

    async def list(self, request: Request) -> Response:
        """List a page of basins."""
        wanted = list_request(request, parse_basin_prefix, parse_basin_start_after)
        page = await self._backend.list_basins(wanted)
        return json_response(control_json.encode_basin_page(page))

    async def create(self, request: Request) -> Response:
        """Create a basin, or recognise the replay of its creation."""
        token = request_token_header(request)
        body = control_json.decode_create_basin(await read_json_body(request))
        made = await self._backend.create_basin(body.basin, body.config, token)
        return create_response(control_json.encode_basin_info(made.info), made.result)

    async def get_config(self, request: Request, basin: str) -> Response:
        """Give a basin's configuration."""
        config = await self._backend.basin_config(basin_in_path(basin))
        return json_response(control_json.encode_basin_config(config))

    async def ensure(self, request: Request, basin: str) -> Response:
        """Make a basin be there with exactly this configuration."""
        name = basin_in_path(basin)
        body = await read_optional_json_body(request)
        config = BasinConfig() if body is None else control_json.decode_ensure_basin(body)
        made = await self._backend.ensure_basin(name, config)
        return ensure_response(control_json.encode_basin_info(made.info), made.result)

    async def reconfigure(self, request: Request, basin: str) -> Response:
        """Change parts of a basin's configuration."""
        name = basin_in_path(basin)
        change = control_json.decode_basin_patch(await read_json_body(request))
        config = await self._backend.reconfigure_basin(name, change)
        return json_response(control_json.encode_basin_config(config))

    async def delete(self, request: Request, basin: str) -> Response:
        """Begin to delete a basin and all its streams."""
        await self._backend.delete_basin(basin_in_path(basin))
        return Response(202)
