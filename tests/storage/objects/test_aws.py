"""Where credentials, region and endpoint for S3 come from."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import obstore
import pytest

from s2lite.storage.objects.aws import ChainCredentials, find_access, find_endpoint
from s2lite.storage.objects.buckets import Provider, make_store
from s2lite.storage.objects.object_store import StoreRefused
from tests.fakes.s3_server import S3Server

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine the tests run on: botocore reads the process's environment."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))


# --- endpoint -----------------------------------------------------------------------------------


def test_without_an_endpoint_amazon_is_asked() -> None:
    assert find_endpoint({}, "eu-west-1") == {}


@pytest.mark.parametrize("name", ["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_may_be_set_in_three_ways(name: str) -> None:
    found = find_endpoint({name: "https://minio:9000"}, "us-east-1")

    assert found == {
        "aws_endpoint": "https://minio:9000",
        "aws_endpoint_url_s3": "https://minio:9000",
    }


def test_the_endpoint_for_s3_wins_over_all_others() -> None:
    environ = {
        "AWS_ENDPOINT": "https://a",
        "AWS_ENDPOINT_URL": "https://b",
        "AWS_ENDPOINT_URL_S3": "https://c",
    }
    assert find_endpoint(environ, "us-east-1")["aws_endpoint"] == "https://c"


def test_an_endpoint_for_s3_may_be_plain_http_and_others_only_if_that_is_allowed() -> None:
    plain = "http://minio:9000"

    assert find_endpoint({"AWS_ENDPOINT_URL_S3": plain}, "r")["aws_allow_http"] == "true"
    for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL"):
        with pytest.raises(StoreRefused, match="AWS_ALLOW_HTTP"):
            find_endpoint({name: plain}, "r")
        allowed = find_endpoint({name: plain, "AWS_ALLOW_HTTP": "true"}, "r")
        assert allowed["aws_endpoint"] == plain


def test_an_empty_endpoint_is_as_good_as_none() -> None:
    environ = {"AWS_ENDPOINT_URL_S3": "", "AWS_ENDPOINT": "https://b"}

    assert find_endpoint(environ, "r")["aws_endpoint"] == "https://b"
    assert find_endpoint({"AWS_ENDPOINT": ""}, "eu-west-1") == {
        "aws_endpoint": "https://s3.eu-west-1.amazonaws.com",
        "aws_endpoint_url_s3": "https://s3.eu-west-1.amazonaws.com",
    }


@pytest.mark.parametrize(
    "url",
    [
        "minio:9000",
        "localhost",
        "ftp://x",
        "http://",
        "https://x:port",
        "https://[",
        "/x",
        "https://a b",
        "https://host/?a=b",
    ],
)
def test_an_endpoint_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(StoreRefused, match="AWS_ENDPOINT must be a URL"):
        find_endpoint({"AWS_ENDPOINT": url}, "r")


def test_a_password_in_an_endpoint_is_refused_and_not_repeated() -> None:
    with pytest.raises(StoreRefused) as caught:
        find_endpoint({"AWS_ENDPOINT": "https://user:pa55word@host"}, "r")
    assert "pa55word" not in str(caught.value)


# --- region and static keys ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({}, "us-east-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_REGION": "eu-west-2", "AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-2"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
    ],
)
def test_the_region_of_the_environment(variables: dict[str, str], region: str) -> None:
    assert find_access(KEYS | variables).region == region


def test_a_region_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(StoreRefused, match="AWS_REGION"):
        find_access(KEYS | {"AWS_REGION": "eu west"})


def test_a_slash_at_the_end_of_an_endpoint_makes_no_difference() -> None:
    assert find_endpoint({"AWS_ENDPOINT": "https://host/"}, "r")["aws_endpoint"] == "https://host"


def test_both_keys_are_taken_as_they_are() -> None:
    found = find_access(KEYS).credentials()

    assert (found["access_key_id"], found["secret_access_key"]) == ("key", "secret")
    assert found["token"] is None
    assert found["expires_at"] is None


@pytest.mark.parametrize(("token", "taken"), [("token", "token"), ("", None)])
def test_a_session_token_goes_with_them(token: str, taken: str | None) -> None:
    assert find_access(KEYS | {"AWS_SESSION_TOKEN": token}).credentials()["token"] == taken


def test_with_both_keys_the_chain_is_not_asked_for_a_region(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\nregion = eu-north-1\n")

    assert find_access(KEYS).region == "us-east-1"


def test_a_store_that_wants_no_signature_needs_no_credentials() -> None:
    assert find_access({"AWS_SKIP_SIGNATURE": "true"}).region == "us-east-1"


# --- the chain ----------------------------------------------------------------------------------


def test_without_any_credentials_it_says_what_to_set() -> None:
    with pytest.raises(StoreRefused, match="AWS_ACCESS_KEY_ID"):
        find_access({})


@pytest.mark.parametrize("lone", list(KEYS))
def test_one_key_alone_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lone: str
) -> None:
    monkeypatch.setenv(lone, "alone")
    with pytest.raises(StoreRefused, match="no AWS credentials found"):
        find_access({lone: "alone"})
    write_profile(tmp_path, "default")

    assert find_access({lone: "alone"}).credentials()["access_key_id"] == "key-of-default"


def write_profile(directory: Path, name: str) -> None:
    with (directory / "credentials").open("a") as file:
        file.write(f"[{name}]\naws_access_key_id = key-of-{name}\n")
        file.write("aws_secret_access_key = secret-of-it\n")


def test_a_profile_has_credentials_and_region(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_profile(tmp_path, "default")
    write_profile(tmp_path, "other")
    (tmp_path / "config").write_text(
        "[default]\nregion = eu-north-1\n[profile other]\nregion = eu-south-1\n"
    )

    assert find_access({}).region == "eu-north-1"
    monkeypatch.setenv("AWS_PROFILE", "other")
    found = find_access({})
    assert found.region == "eu-south-1"
    assert found.credentials()["access_key_id"] == "key-of-other"
    assert found.credentials()["expires_at"] is None


def test_a_profile_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreRefused, match="nobody"):
        find_access({})


def test_a_command_in_a_profile_is_run(tmp_path: Path) -> None:
    output = {"Version": 1, "AccessKeyId": "made", "SecretAccessKey": "s", "SessionToken": "t"}
    (tmp_path / "made.json").write_text(json.dumps(output))
    (tmp_path / "config").write_text(
        f"[default]\ncredential_process = cat {tmp_path / 'made.json'}\n"
    )
    found = find_access({}).credentials()

    assert (found["access_key_id"], found["token"]) == ("made", "t")


@contextmanager
def metadata_server(answers: dict[str, Any], signers: list[str] | None = None) -> Iterator[str]:
    """An HTTP server that answers GETs and PUTs of these paths, as AWS's own local ones do.

    Everything else it does not find, and notes with whose key that was signed.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if signers is not None and "Credential=" in self.headers.get("authorization", ""):
                signers.append(self.headers["authorization"].split("Credential=")[1].split("/")[0])
            found = answers.get(self.path)
            body = (found if isinstance(found, str) else json.dumps(found)).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (its name there)
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def temporary(number: int, lifetime: timedelta) -> dict[str, str]:
    """Credentials as a metadata server gives them."""
    return {
        "Code": "Success",
        "AccessKeyId": f"key-{number}",
        "SecretAccessKey": "secret",
        "Token": "token",
        "Expiration": (datetime.now(UTC) + lifetime).strftime("%Y-%m-%dT%H:%M:%SZ"),  # noqa: TID251  (botocore reads the machine's clock)
    }


def test_a_container_gets_its_role_from_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with metadata_server({"/role": temporary(1, timedelta(hours=1))}) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/role")
        found = find_access({}).credentials()

    assert (found["access_key_id"], found["token"]) == ("key-1", "token")
    assert found["expires_at"] is not None


def test_a_virtual_machine_gets_role_and_region_from_its_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = {
        "/latest/api/token": "session",
        "/latest/meta-data/iam/security-credentials/": "role",
        "/latest/meta-data/iam/security-credentials/role": temporary(1, timedelta(hours=1)),
        "/latest/meta-data/placement/availability-zone/": "ap-south-2b",
    }
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with metadata_server(answers) as url:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"{url}/")
        found = find_access({})

    assert found.credentials()["access_key_id"] == "key-1"
    assert found.region == "ap-south-2"


@pytest.mark.parametrize(("seconds", "second"), [(30, "key-2"), (3600, "key-1")])
def test_requests_are_signed_with_credentials_that_are_still_valid(
    monkeypatch: pytest.MonkeyPatch, seconds: float, second: str
) -> None:
    answers = {"/role": temporary(1, timedelta(seconds=seconds))}
    signers: list[str] = []
    with metadata_server(answers, signers) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/role")
        objects = make_store(Provider.S3, "bucket", "", {"AWS_ENDPOINT_URL_S3": url})
        with pytest.raises(FileNotFoundError):
            obstore.get(objects, "a")
        answers["/role"] = temporary(2, timedelta(hours=1))
        threading.Event().wait(0.15)  # obstore asks for credentials at most ten times a second
        with pytest.raises(FileNotFoundError):
            obstore.get(objects, "a")

    assert signers == ["key-1", second]


def test_a_web_identity_is_exchanged_for_a_role(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3_server: S3Server
) -> None:
    (tmp_path / "token").write_text("header.claims.signature")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/server")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", s3_server.url)
    monkeypatch.setenv("AWS_REGION", "eu-central-2")
    found = find_access({"AWS_REGION": "eu-central-2"})

    assert found.credentials()["access_key_id"].startswith("ASIA")
    assert found.region == "eu-central-2"


@attrs.define
class FakeSource:
    """Credentials of botocore's that expire in so many seconds; a fetch makes that an hour."""

    remaining: float = 3600
    fetches: int = 0

    access_key: str = "key"
    secret_key: str = "secret"
    token: str = "token"

    def refresh_needed(self, refresh_in: float) -> bool:
        return self.remaining < refresh_in

    def get_frozen_credentials(self) -> "FakeSource":
        self.fetches += 1
        self.remaining = 3600
        return self


@pytest.mark.parametrize(("remaining", "fetches"), [(3600, 1), (61, 1), (59, 2), (-5, 2)])
def test_credentials_are_fetched_anew_with_less_than_a_minute_left(
    remaining: float, fetches: int
) -> None:
    source = FakeSource()
    credentials = ChainCredentials(source)
    credentials()
    source.remaining = remaining
    credentials()

    assert source.fetches == fetches
