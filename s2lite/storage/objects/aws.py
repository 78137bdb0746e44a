"""Amazon's way of saying which account, which region and which server: the `AWS_` environment.

obstore applies every variable whose name it knows, by itself. Here is what it leaves open: which
endpoint wins, where the credentials come from, and which region.

Both keys in the environment are taken as they are. Otherwise botocore, Amazon's own library, looks
where every AWS tool looks: profile, single sign-on, web identity, container, instance metadata.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import attrs

from s2lite.storage.objects.object_store import StoreRefused

if TYPE_CHECKING:
    from obstore.store import S3Credential  # exists for type checkers only

DEFAULT_REGION: Final = "us-east-1"

MIN_VALIDITY_SECONDS: Final = 60
"""Credentials that are valid for less than this are fetched anew."""

_ENDPOINT = re.compile(r"https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d+)?(/[A-Za-z0-9._~/-]*)?")
_REGION = re.compile(r"[A-Za-z0-9-]+")

_TRUE = frozenset({"1", "true", "on", "yes", "y"})

# obstore asks again whenever it is about to use what has expired: every time, that is.
_ASK_EVERY_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)

_NO_CREDENTIALS = (
    "no AWS credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
    "or run where a role provides them (AWS_SKIP_SIGNATURE=true if the store wants none)"
)


def _checked(region: str) -> str:
    if not _REGION.fullmatch(region):
        raise StoreRefused("region", f"{region!r} is not the name of a region; set AWS_REGION")
    return region


@attrs.frozen(eq=False)
class AwsAccess:
    """Whose requests they are, and the region they are for."""

    credentials: "Callable[[], S3Credential]"
    region: str = attrs.field(converter=_checked)


def find_access(environ: Mapping[str, str]) -> AwsAccess:
    """Find credentials and region. May ask servers, in the calling thread, for some seconds.

    Raises `StoreRefused` if there are no credentials, or the region cannot be one.
    """
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if environ.get("AWS_SKIP_SIGNATURE", "").lower() in _TRUE:
        return AwsAccess(lambda: _credential("", "", None), region or DEFAULT_REGION)
    if key and secret:
        token = environ.get("AWS_SESSION_TOKEN") or None
        return AwsAccess(lambda: _credential(key, secret, token), region or DEFAULT_REGION)
    return _ask_the_chain(region)


def find_endpoint(environ: Mapping[str, str], region: str) -> dict[str, str]:
    """The options that say which server to ask: none if that is Amazon's own.

    Raises `StoreRefused` if the environment names something that is no HTTP URL.
    """
    names = [
        name
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
        if name in environ
    ]
    if not names:
        return {}
    # Set and empty is not set; but obstore, which reads the environment too, would stumble on it.
    name = next((name for name in names if environ[name]), None)
    url = environ[name].rstrip("/") if name else f"https://s3.{region}.amazonaws.com"
    _check_endpoint(name or "", url)
    options = {"aws_endpoint": url, "aws_endpoint_url_s3": url}
    if name == "AWS_ENDPOINT_URL_S3" and url.startswith("http://"):
        options["aws_allow_http"] = "true"
    elif url.startswith("http://") and environ.get("AWS_ALLOW_HTTP", "").lower() not in _TRUE:
        raise StoreRefused(
            url,
            f"to use plain HTTP, set AWS_ALLOW_HTTP=true or use AWS_ENDPOINT_URL_S3, not {name}",
        )
    return options


def _check_endpoint(name: str, url: str) -> None:
    """Refuse what obstore would crash on, and what has a password in it."""
    try:
        fine = _ENDPOINT.fullmatch(url) and urlsplit(url).port != 0
    except ValueError:
        fine = False
    if not fine:
        raise StoreRefused("endpoint", f"{name} must be a URL like https://host:port")


def _credential(key: str, secret: str, token: str | None) -> "S3Credential":
    return {
        "access_key_id": key,
        "secret_access_key": secret,
        "token": token,
        "expires_at": None,
    }


# --- the standard chain -------------------------------------------------------------------------


@attrs.define(eq=False)
class ChainCredentials:
    """Credentials that botocore found, fetched anew before they expire.

    obstore calls it from a thread of its own, one call at a time. Raises what botocore raises.
    """

    _source: Any
    _current: "S3Credential | None" = attrs.field(default=None, init=False)

    def __call__(self) -> "S3Credential":
        """Return credentials that are valid for a minute at least."""
        expires = hasattr(self._source, "refresh_needed")
        if self._current is None or (
            expires and self._source.refresh_needed(refresh_in=MIN_VALIDITY_SECONDS)
        ):
            found = self._source.get_frozen_credentials()
            self._current = _credential(found.access_key, found.secret_key, found.token)
            self._current["expires_at"] = _ASK_EVERY_TIME if expires else None
        return self._current


def _ask_the_chain(region: str | None) -> AwsAccess:
    # Imported by those who need it: that takes as long as the rest of the server does.
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        session = Session()
        region = region or session.get_config_variable("region")
        session.set_config_variable("region", region or DEFAULT_REGION)
        # Both variables or none: botocore's own look at them takes one of them for a mistake.
        session.get_component("credential_provider").remove("env")
        source = session.get_credentials()
        if source is None:
            raise StoreRefused("credentials", _NO_CREDENTIALS)
        credentials = ChainCredentials(source)
        credentials()
        if region is None and source.method == "iam-role":
            region = _region_of_this_machine(session)
    except BotoCoreError as error:
        raise StoreRefused("credentials", f"{error}; {_NO_CREDENTIALS}") from error
    return AwsAccess(credentials, region or DEFAULT_REGION)


def _region_of_this_machine(session: Any) -> str | None:
    from botocore.utils import IMDSRegionProvider

    region: str | None = IMDSRegionProvider(session).provide()
    return region
