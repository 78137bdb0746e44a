"""Servers for tests, and what they printed when a test fails."""

import itertools
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.conformance.server_process import Fleet, ServerProcess

StartServer = Callable[..., ServerProcess]

_numbers = itertools.count()


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Every server of this run."""
    with Fleet(tmp_path_factory.mktemp("servers")).block() as fleet:
        yield fleet


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
    with httpx.Client(base_url=server.url, timeout=20) as client:
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


def new_basin_name() -> str:
    """A name that no other test of this run uses."""
    return f"test-basin-{next(_numbers)}"
