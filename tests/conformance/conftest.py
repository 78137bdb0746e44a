"""Servers for tests, and what they printed when a test fails."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx
import pytest

from tests.conformance.raw import RECORDS
from tests.conformance.server_process import Fleet, ServerProcess
from tests.conformance.sessions import S2S, H1Session, H2Session, Session
from tests.conformance.waiting import Waiting, scenarios_of

StartServer = Callable[..., ServerProcess]
OpenSession = Callable[..., Awaitable[Session]]

_numbers = itertools.count()


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Every server of this run."""
    with Fleet(tmp_path_factory.mktemp("servers")).block() as fleet:
        yield fleet


@pytest.fixture(scope="session", autouse=True)
def waiting(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[Waiting]:
    """The tests that mostly wait; they run from now on."""
    waiting = Waiting(scenarios_of(request.session.items))
    waiting.start(fleet)
    yield waiting
    waiting.stop()


@pytest.fixture(autouse=True)
def server_output(fleet: Fleet) -> Iterator[None]:
    """Show what the servers print during a test that fails, and fail it if that is an error."""
    before = {server: len(server.output) for server in fleet.servers}
    seen = set(fleet.servers)
    yield
    errors = []
    for number, server in enumerate(fleet.servers):
        if server in seen and not server.output[before[server] :]:
            continue
        print(f"--- server {number}, port {server.port}")
        for line in server.output[before.get(server, 0) :]:
            print(line)
            if " ERROR " in line or line.startswith("Traceback"):
                errors.append(line)
    assert not errors


@pytest.fixture
def start_server(fleet: Fleet, server_output: None) -> Iterator[StartServer]:
    """Start servers of the test's own; arguments are those of the command line."""
    mine: list[ServerProcess] = []

    def start(*arguments: str, ready: bool = True) -> ServerProcess:
        server = fleet.launch(*arguments)
        mine.append(server)
        if ready:
            server.wait_ready()
        return server

    yield start
    for server in mine:
        if server.alive:
            server.kill()


@pytest.fixture
def server(request: pytest.FixtureRequest, fleet: Fleet) -> ServerProcess:
    """A server that others use, too: in memory, unless the test is parametrized with `local`."""
    return fleet.shared(getattr(request, "param", "memory"))


@pytest.fixture
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    """A client of the shared server, over HTTP/1.1."""
    with httpx.Client(base_url=server.url, verify=False, timeout=20) as client:
        client.headers["accept-encoding"] = "identity"
        yield client


@pytest.fixture
def basin(http: httpx.Client) -> str:
    """A fresh basin of the shared server; requests of `http` are about it."""
    name = new_basin_name()
    assert http.post("/v1/basins", json={"basin": name}).status_code == 201
    http.headers["s2-basin"] = name
    return name


@pytest.fixture
def stream(http: httpx.Client, basin: str) -> str:
    """A fresh stream in the basin."""
    assert http.post("/v1/streams", json={"stream": "s"}).status_code == 201
    return "s"


@pytest.fixture(params=["http1", "http2"])
def api(
    request: pytest.FixtureRequest, server: ServerProcess, basin: str, stream: str
) -> Iterator[httpx.Client]:
    """A client of the fresh stream `s`, over either version."""
    two = request.param == "http2"
    headers = {"s2-basin": basin, "accept-encoding": "identity"}
    with httpx.Client(
        base_url=server.url, http1=not two, http2=two, headers=headers, verify=False, timeout=20
    ) as client:
        yield client


@pytest.fixture(params=[H1Session, H2Session], ids=["http1", "http2"])
async def open_session(
    request: pytest.FixtureRequest, server: ServerProcess, stream: str, basin: str
) -> AsyncIterator[OpenSession]:
    """Open sessions on the stream; headers are keyword arguments, with underscores."""
    sessions: list[Session] = []

    async def open_one(
        method: str = "POST", query: str = "", path: str = RECORDS, **headers: str
    ) -> Session:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        everything = {**S2S, "s2-basin": basin, **named}
        session: Session = await request.param.open(server.port, method, path + query, everything)
        sessions.append(session)
        return session

    yield open_one
    for session in sessions:
        await session.aclose()


def new_basin_name() -> str:
    """A name that no other test of this run uses."""
    return f"test-basin-{next(_numbers)}"
