"""AWS as the verbs ask it: one session, patient clients, and errors in words."""

from __future__ import annotations

import functools
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

from ops.errors import MissingError

ERRORS = (ClientError, BotoCoreError)
"""Everything that boto3 raises."""

_CREDENTIALS_HELP = (
    "`aws sso login`, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; then `aws sts "
    "get-caller-identity`"
)
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, ProfileNotFound, SSOError, TokenRetrievalError)
_BAD_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "AuthFailure",
    "InvalidAccessKeyId",
    "RequestExpired",
}
_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403", "AllAccessDisabled"}


def client(service: str, region: str, *, connections: int = 10) -> Any:
    """A boto3 client of a service; Any, since boto3 makes its methods at run time.

    Raises:
        MissingError: the named profile does not exist.
    """
    config = Config(
        retries={"mode": "standard", "max_attempts": 6},
        connect_timeout=10,
        read_timeout=120,
        max_pool_connections=connections,
    )
    try:
        return session().client(service, region_name=region, config=config)
    except BotoCoreError as error:
        raise explained(error) from error


@functools.cache
def session() -> Any:
    """The one session: it reads credentials and the descriptions of services once."""
    return boto3.Session()


def error_code(error: Exception) -> str:
    """AWS' code of an error (`AccessDenied`, `NoSuchBucket`, `404`); empty where it has none."""
    return _told(error).get("Code", "")


def is_denied(error: Exception) -> bool:
    """Whether the caller lacks a permission."""
    return error_code(error) in _DENIED


def without_credentials(error: Exception) -> bool:
    """Whether there are no credentials, or none that AWS takes."""
    return isinstance(error, _NO_CREDENTIALS) or error_code(error) in _BAD_CREDENTIALS


def explained(error: Exception, *, doing: str | None = None) -> MissingError:
    """An error of boto3 as one that says how to mend it."""
    where = f"{doing}: " if doing else ""
    if without_credentials(error):
        return MissingError(f"{where}AWS does not know the caller: {_first_line(error)}", help=_CREDENTIALS_HELP)
    if isinstance(error, NoRegionError):
        return MissingError(f"{where}no AWS region is given", help="set `aws:region` in the stack file")
    if isinstance(error, EndpointConnectionError | ConnectTimeoutError):
        return MissingError(f"{where}AWS cannot be reached: {_first_line(error)}", help="check network and proxy")
    if is_denied(error):
        return MissingError(
            f"{where}the caller is not allowed to: {_first_line(error)}",
            help="use credentials that carry this permission; `aws sts get-caller-identity` says who you are",
        )
    return MissingError(f"{where}{_first_line(error)}")


def _first_line(error: Exception) -> str:
    told = _told(error)
    if told:
        return f"{told.get('Message') or 'refused'} ({told.get('Code')})"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _told(error: Exception) -> dict[str, str]:
    """What AWS answered: code and message; empty for an error that is not AWS' answer."""
    response: Any = getattr(error, "response", None) if isinstance(error, ClientError) else None
    return {key: str(value) for key, value in response.get("Error", {}).items()} if response else {}
