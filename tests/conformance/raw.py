"""Requests about the records of the stream `s`, as raw HTTP: what goes out, and what came back."""

from collections.abc import Mapping
from typing import Any

import httpx

from tests.api.frames import Frame
from tests.conformance.sessions import Session

RECORDS = "/v1/streams/s/records"
JSON = {"content-type": "application/json"}
PROTOBUF = {"content-type": "application/x-protobuf", "accept": "application/x-protobuf"}
EVENTS = {"accept": "text/event-stream"}
MIB = 1024 * 1024

Json = dict[str, Any]


def command(operation: str, payload: str = "") -> Json:
    """A command record; the payload as text."""
    return {"headers": [["", operation]], "body": payload}


def trim_command(seq_num: int) -> Json:
    """A trim command up to a number whose bytes are text."""
    return command("trim", seq_num.to_bytes(8, "big").decode())


def stamped(timestamp: int, body: str = "a") -> Json:
    """A record with a timestamp of the client's."""
    return {"body": body, "timestamp": timestamp}


def append(
    api: httpx.Client,
    *records: str | Json,
    path: str = RECORDS,
    headers: Mapping[str, str] | None = None,
    **conditions: object,
) -> httpx.Response:
    """Append records, or only bodies."""
    named = [{"body": each} if isinstance(each, str) else each for each in records]
    return api.post(path, json={"records": named, **conditions}, headers=headers)


def appended(api: httpx.Client, *records: str | Json, **conditions: Any) -> Json:
    """Append records that must be taken, and return the ack."""
    answer = append(api, *records, **conditions)
    assert answer.status_code == 200, answer.text
    ack: Json = answer.json()
    return ack


def span(ack: Json) -> tuple[int, int]:
    """The seq_nums that an ack is about; its tail must be its end."""
    assert ack["tail"] == ack["end"]
    return ack["start"]["seq_num"], ack["end"]["seq_num"]


def read(api: httpx.Client, query: str = "seq_num=0", **headers: str) -> httpx.Response:
    """Read; headers are keyword arguments, with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.get(f"{RECORDS}?{query}", headers=named)


def batch_of(answer: httpx.Response) -> Json:
    """The batch of a read that succeeded."""
    assert answer.status_code == 200, answer.text
    batch: Json = answer.json()
    return batch


def records_of(api: httpx.Client, query: str = "seq_num=0") -> list[Json]:
    """The records that a read gets."""
    records: list[Json] = batch_of(read(api, query))["records"]
    return records


def seq_nums_of(api: httpx.Client, query: str = "seq_num=0") -> list[int]:
    """Only their numbers."""
    return [record["seq_num"] for record in records_of(api, query)]


def bodies_of(api: httpx.Client, query: str = "seq_num=0") -> list[str]:
    """Only their bodies."""
    return [record.get("body", "") for record in records_of(api, query)]


def timestamps_of(api: httpx.Client) -> list[int]:
    """Only their timestamps."""
    return [record["timestamp"] for record in records_of(api)]


def check_tail(api: httpx.Client, path: str = RECORDS) -> httpx.Response:
    """Ask for the tail."""
    return api.get(f"{path}/tail")


def tail_of(api: httpx.Client, path: str = RECORDS) -> int:
    """The seq_num of the tail."""
    seq_num: int = check_tail(api, path).json()["tail"]["seq_num"]
    return seq_num


def error_of(answer: httpx.Response) -> tuple[int, str | None]:
    """The status and the code of a refusal, which must be written as errors are.

    The code is None if there is no body at all.
    """
    if not answer.content and "content-type" not in answer.headers:
        return answer.status_code, None
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert sorted(body) == ["code", "message"], body
    assert isinstance(body["message"], str)
    return answer.status_code, body["code"]


def streams_of(api: httpx.Client) -> list[str]:
    """The names of the streams in the basin."""
    return [each["name"] for each in api.get("/v1/streams").json()["streams"]]


def create_stream(api: httpx.Client, name: str = "s", **config: object) -> None:
    """Create a stream that is not there."""
    answer = api.post("/v1/streams", json={"stream": name, "config": config})
    assert answer.status_code == 201, answer.text


def reconfigure(api: httpx.Client, **config: object) -> None:
    """Change the configuration of the stream."""
    answer = api.patch("/v1/streams/s", json=config)
    assert answer.status_code == 200, answer.text


def fill(api: httpx.Client, *bodies: str) -> Json:
    """Append a batch of records that all have timestamp 1000; return its ack."""
    return appended(api, *[stamped(1000, body) for body in bodies])


async def next_frame(session: Session) -> Frame:
    """The next frame; there must be one."""
    found = await session.frame()
    assert found is not None
    return found
