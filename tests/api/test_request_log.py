import logging

import pytest
import trio
from trio.testing import MockClock

from s2lite.api.asgi import Receive, Response, Scope, Send, send_response
from s2lite.api.request_log import RequestLog
from tests.fakes.asgi_client import AsgiClient


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await trio.sleep(0.25)
    await send_response(send, Response(418))


async def test_a_request_is_one_line_without_its_secrets(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO, "s2lite.api")
    await AsgiClient(RequestLog(app)).request(
        "POST", "/v1/a%0Ab?prefix=secret", authorization="secret", s2_encryption_key="secret"
    )
    assert [record.getMessage() for record in caplog.records] == ["POST /v1/a%0Ab 418 250.0 ms"]


async def test_a_path_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        return

    caplog.set_level(logging.INFO, "s2lite.api")
    async with AsgiClient(RequestLog(silent)).exchange("GET", "/a\r\nGET /b 200"):
        await trio.testing.wait_all_tasks_blocked()
    (record,) = caplog.records
    assert record.getMessage().startswith("GET /a\\r\\nGET /b 200 - ")
