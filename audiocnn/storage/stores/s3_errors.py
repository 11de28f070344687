"""Errors of the two S3 clients: the server's answer, whether to retry, a message of one line."""

import re

import aiohttp
import botocore.exceptions
import obstore.exceptions
from botocore.parsers import ResponseParserError

from audiocnn.errors import ChangedError, GoneError, StorageError, UnreadableError
from audiocnn.storage.stores import local

_SLOW = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "RequestLimitExceeded"}
_BROKEN = (
    botocore.exceptions.ConnectionError,
    botocore.exceptions.HTTPClientError,
    ResponseParserError,
    aiohttp.ClientError,
    TimeoutError,
)
_NO_KEYS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.ProfileNotFound,
    botocore.exceptions.CredentialRetrievalError,
)
_EXPIRED = "the session's keys have expired; renew them and run the same command again to continue"
_REGION = "the bucket is in another region: set AWS_DEFAULT_REGION to that region"
_MEANS = {
    "NoSuchBucket": "no such bucket at {endpoint}",
    "InvalidAccessKeyId": "access denied: the access key is not known to {endpoint}",
    "SignatureDoesNotMatch": "access denied: the secret key is not the one that {endpoint} knows",
    "ExpiredToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": "access denied: the session token is not accepted by {endpoint}",
    "RequestTimeTooSkewed": "access denied: the clocks of this machine and of {endpoint} differ",
    "AccessDenied": "access denied by {endpoint}",
    "403": "access denied by {endpoint}",
    "NoSuchKey": "not found",
    "404": "not found",
    "InvalidObjectState": "archived: restore it first",
    "KeyTooLongError": "its name is too long",
    "PreconditionFailed": local.CHANGED,
    "412": local.CHANGED,
    "InvalidRange": "it is shorter than expected",
    "301": _REGION,
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
}
_ONE_OBJECT = {
    "AccessDenied", "403", "NoSuchKey", "404", "InvalidObjectState", "KeyTooLongError",
    "InvalidRequest", "InvalidURI", "InvalidRange", "PreconditionFailed", "412",
}  # fmt: skip
"""Codes of answers to a read that concern only that object."""
_KINDS: dict[str, type[UnreadableError]] = {
    "NoSuchKey": GoneError, "404": GoneError,
    "PreconditionFailed": ChangedError, "412": ChangedError,
}  # fmt: skip


def explain(uri: str, error: Exception, seconds: float, where: str, *, read: bool) -> StorageError:
    """Return an error of one line; UnreadableError if only the object that was read is affected.

    `seconds` is the duration of the request with its retries, `where` the endpoint.
    """
    code, status = answer(error)
    kind: type[StorageError] = StorageError
    if read and code in _ONE_OBJECT:
        kind = _KINDS.get(code, UnreadableError)
    if isinstance(error, _NO_KEYS):
        return StorageError(
            f"{uri}: no usable keys ({error}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE, or the storage option anon"
        )
    if code in _MEANS:
        return kind(f"{uri}: {_MEANS[code].format(endpoint=where)}")
    if code:
        said = re.search("<Message>(.*?)</Message>", str(error))
        what = f"after {seconds:.0f} s" if status >= 500 else said[1] if said else error
        return kind(f"{uri}: {where} answered {code} ({what})")
    if isinstance(error, (*_BROKEN, obstore.exceptions.GenericError)):
        return StorageError(f"{uri}: no whole answer from {where} in {seconds:.0f} s")
    return kind(f"{uri}: {' '.join(str(error).split())}")


def answer(error: BaseException | None) -> tuple[str, int]:
    """Return the code and HTTP status of the server's answer; "" and 0 without an answer."""
    text = str(error)
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code") or status), int(status)
        error = error.__cause__
    found = re.search(r"status code: (\d+)", text)
    code = re.search(r"<Code>(\w+)</Code>", text)
    status = int(found[1]) if found else 301 if "redirect without LOCATION" in text else 0
    return (code[1] if code else str(status or "")), status


def passes(error: Exception) -> bool:
    """Return whether a retry of the same request may succeed."""
    code, status = answer(error)
    if isinstance(error, botocore.exceptions.SSLError):
        return False
    return status >= 500 or code in _SLOW or isinstance(error, _BROKEN)
