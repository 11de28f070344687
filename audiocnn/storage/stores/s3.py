"""S3 and compatible stores: two clients share one resolution of endpoint, region and keys.

s3fs resolves them from `storage.configure`, AWS_* variables and AWS profiles. It lists, writes and
removes. obstore, configured with the values from s3fs, reads objects and ranges: for a GET of
440 KB it needs an eighth of the CPU time of s3fs.

Time limits of a request: no new attempt starts more than `PATIENCE_S` after the first one. An
attempt ends after 5 s without a connection or 15 s without a byte; a PUT ends after 20 s plus the
time for its bytes at 250 kB/s. Measured with both clients: a request fails after 18 to 24 s if the
port is closed, connections are dropped or the answer is 503 SlowDown, and after 31 s if the server
is silent. It succeeds if the server is killed and back within 14 s. AWS_MAX_ATTEMPTS or `retries`
in the storage option `config_kwargs` limits the number of attempts instead of the time.
`connect_timeout` and `read_timeout` there replace the limits of one attempt.
"""

import asyncio
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import botocore.exceptions
import obstore
from botocore.utils import parse_timestamp
from fsspec.asyn import sync
from obstore.store import S3Store
from s3fs import S3FileSystem

from audiocnn.errors import ConfigError, NotAFolderError, StorageError
from audiocnn.storage.stores import s3_errors

PATIENCE_S = 20.0
"""Seconds from a request's start after which it is not retried."""

_LONGEST_WAIT_S = 3.0
_SLOWEST_BYTES_PER_S = 250_000
_RENEW_S = 600
_NOT_FOR_OBSTORE = re.compile(r"[\x00-\x1f\x7f]|//|/$|^/|(^|/)\.{1,2}(/|$)")
"""Keys that obstore's paths cannot express: with control characters, empty or dot segments. s3fs
reads these objects. SeaweedFS refuses dot segments; it lists `a//b` and `a\\b` as `a/b`, and they
are read by that name. s3fs cuts a key at `?versionId=` when it writes or removes the object;
listing and reading work with such keys."""


class FileSystem(S3FileSystem):  # type: ignore[misc]
    """An s3fs file system that retries for a time, not for a number of attempts.

    It keeps no listings. s3fs and botocore each count attempts, so the counts multiply, and neither
    waits while a port is closed for some seconds. So both are set to one attempt (botocore's own
    number is kept if the user sets one).
    """

    retries = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        config = dict(kwargs.pop("config_kwargs", None) or {})
        counted = "retries" in config or "AWS_MAX_ATTEMPTS" in os.environ
        self.patience_s = 0.0 if counted else PATIENCE_S
        if not counted:
            config["retries"] = {"total_max_attempts": 1}
        kwargs.setdefault("use_listings_cache", False)  # s3fs would keep them for ever
        super().__init__(*args, config_kwargs=config, **kwargs)

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        begun, wait = time.monotonic(), 0.1
        limit = self._limit_s(kwargs.get("Body"))
        while True:
            try:
                call = super()._call_s3(method, *akwarglist, **kwargs)
                return await asyncio.wait_for(call, limit)
            except Exception as error:
                late = time.monotonic() - begun + wait > self.patience_s
                if late or not s3_errors.passes(error):
                    raise
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311
            wait = min(2 * wait, _LONGEST_WAIT_S)

    def _limit_s(self, body: Any) -> float | None:
        """Return the time limit of a request with a body, in seconds; None without a body.

        aiohttp itself limits neither the sending of a body nor the wait before it.
        """
        if body is None:
            return None
        config = self._prepare_config_kwargs()
        timeouts: float = config["connect_timeout"] + config["read_timeout"]
        return timeouts + len(body) / _SLOWEST_BYTES_PER_S

    def call(self, method: str, **kwargs: Any) -> Any:
        """Run one operation of the S3 API. Unlike in s3fs, names are never read as patterns."""
        return sync(self.loop, self._call_s3, method, **kwargs)

    def fetch(
        self, bucket: str, key: str, most: int | None, version: str | None, **kwargs: Any
    ) -> bytes:
        """Return the first `most` bytes of an object by one GET; None returns all of them.

        With a `version`, the server refuses the request if that is not the object's ETag.
        """
        asked = kwargs | ({"IfMatch": version} if version else {})

        async def read() -> bytes:
            answer = await self._call_s3("get_object", Bucket=bucket, Key=key, **asked)
            async with answer["Body"] as body:
                data: bytes = await body.read(most)
                return data

        found: bytes = sync(self.loop, read)
        return found


def filesystem() -> FileSystem:
    """Return the s3fs file system for the current configuration. Raises ConfigError."""
    try:
        fs = FileSystem()
        fs.connect()
        # botocore's own parser of timestamps takes half of the time of a listing.
        parsers = fs.session.get_component("response_parser_factory")
        parsers.set_parser_defaults(timestamp_parser=_timestamp)
    except (TypeError, KeyError, ValueError) as error:  # an unknown option or a wrong value
        raise ConfigError(f"--storage-options: s3: {error}") from error
    return fs


def _timestamp(value: Any) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):  # a number, or a date in the format of HTTP
        found: datetime = parse_timestamp(value)
        return found


def forget() -> None:
    """Drop the clients, so that the next call resolves endpoint and keys again."""
    FileSystem.clear_instance_cache()
    _store.cache_clear()


def endpoint() -> str:
    """Return the URL that requests go to. Raises ConfigError."""
    url: str = filesystem()._s3.meta.endpoint_url
    return url


def pages(path: str) -> Iterator[list[tuple[str, int, str]]]:
    """Yield the names (`bucket/key`), sizes in bytes and ETags below a path, one list per request.

    Empty objects ending in `/`, which represent folders, are left out. Raises StorageError if
    nothing is below the path, NotAFolderError if the path is an object; a bucket may be empty.
    """
    bucket, _, key = path.partition("/")
    fs, empty = filesystem(), bool(key)
    asked = {"Bucket": bucket, "Prefix": f"{key}/" if key else ""}
    while True:
        page = fs.call("list_objects_v2", **asked)
        entries = [
            (f"{bucket}/{entry['Key']}", int(entry["Size"]), entry["ETag"].strip('"'))
            for entry in page.get("Contents", [])
            if entry["Size"] or not entry["Key"].endswith("/")
        ]
        empty = empty and not entries
        yield entries
        if not page.get("IsTruncated"):
            break
        asked["ContinuationToken"] = page["NextContinuationToken"]
    if empty and exists(path):
        raise NotAFolderError(f"s3://{path}: not a folder")
    if empty:
        raise StorageError(f"s3://{path}: not found")


def folders(path: str) -> list[str]:
    """Return the names of the folders directly below a path, sorted."""
    bucket, _, key = path.partition("/")
    below = f"{key}/" if key else ""
    asked, found = {"Bucket": bucket, "Prefix": below, "Delimiter": "/"}, list[str]()
    while True:
        page = filesystem().call("list_objects_v2", **asked)
        found += [one["Prefix"][len(below) : -1] for one in page.get("CommonPrefixes", [])]
        if not page.get("IsTruncated"):
            return sorted(found)
        asked["ContinuationToken"] = page["NextContinuationToken"]


def read(path: str, most: int = -1, version: str | None = None) -> bytes:
    """Read an object (`bucket/key`) by one GET; with `most`, only its first `most` + 1 bytes.

    The download of a longer object is stopped. With a `version`, the server refuses the request if
    that is not the object's ETag.
    """
    bucket, _, key = path.partition("/")
    if _NOT_FOR_OBSTORE.search(key):
        return filesystem().fetch(bucket, key, most + 1 if most >= 0 else None, version)
    answer = obstore.get(_store(bucket), key, options={"if_match": version} if version else None)
    if most < 0 or answer.meta["size"] <= most:
        return answer.bytes().to_bytes()
    start = bytearray()
    for block in answer.stream(min_chunk_size=1 << 16):
        start += block
        if len(start) > most:
            break
    return bytes(start[: most + 1])


def read_range(path: str, offset: int, size: int, version: str | None = None) -> bytes:
    """Return `size` bytes of an object from `offset` on; `version` is as for `read`.

    The range must not go beyond the object's end: some servers refuse that with status 416.
    """
    bucket, _, key = path.partition("/")
    if _NOT_FOR_OBSTORE.search(key):
        span = f"bytes={offset}-{offset + size - 1}"
        return filesystem().fetch(bucket, key, size, version, Range=span)
    options: Any = {"range": (offset, offset + size)} | ({"if_match": version} if version else {})
    return obstore.get(_store(bucket), key, options=options).bytes().to_bytes()


def head(path: str) -> tuple[int, str | None]:
    """Return the size in bytes and the ETag of an object."""
    bucket, _, key = path.partition("/")
    try:
        if _NOT_FOR_OBSTORE.search(key):
            answer = filesystem().call("head_object", Bucket=bucket, Key=key)
            return answer["ContentLength"], answer.get("ETag")
        meta = obstore.head(_store(bucket), key)
    except (OSError, obstore.exceptions.PermissionDeniedError):
        read(path, 0)  # raises an error with the reason, which the answer to a HEAD lacks
        raise
    return meta["size"], meta["e_tag"]


def exists(path: str) -> bool:
    """Return whether an object exists at or below a path; an emptied folder does not count."""
    bucket, _, key = path.partition("/")
    fs = filesystem()
    if key:
        try:
            fs.call("head_object", Bucket=bucket, Key=key)
            return True
        except OSError as error:
            if s3_errors.answer(error)[1] >= 500:
                raise
            # The answer to a HEAD has no reason; the answer to the listing below has one.
    below = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/" if key else ""}
    while True:
        page = fs.call("list_objects_v2", **below)
        if not key or any(not entry["Key"].endswith("/") for entry in page.get("Contents", [])):
            return True
        if not page.get("IsTruncated"):
            return False
        below["ContinuationToken"] = page["NextContinuationToken"]


@lru_cache(maxsize=64)
def _store(bucket: str) -> S3Store:
    """Return the process's obstore client of a bucket, with the values that s3fs resolved.

    A process that is forked after the first read cannot use it: obstore's threads are not copied.
    """
    fs = filesystem()
    meta = fs._s3.meta
    config = meta.config
    bundle = fs.client_kwargs.get("verify", fs.session.get_config_variable("ca_bundle"))
    client: dict[str, Any] = {
        "allow_http": meta.endpoint_url.startswith("http://"),
        "allow_invalid_certificates": bundle is False,
        "connect_timeout": timedelta(seconds=config.connect_timeout),
        "read_timeout": timedelta(seconds=config.read_timeout),
        "timeout": timedelta(hours=1),  # a large object on a slow line
    }
    if isinstance(bundle, str):
        with open(bundle, "rb") as file:
            client["root_certificate"] = file.read()
    retry: dict[str, Any] = {"max_retries": config.retries["total_max_attempts"] - 1}
    if fs.patience_s:
        wait = {
            "init_backoff": timedelta(seconds=0.1),
            "max_backoff": timedelta(seconds=_LONGEST_WAIT_S),
        }
        limit = timedelta(seconds=fs.patience_s)
        retry = {"max_retries": 1_000, "retry_timeout": limit, "backoff": wait}
    # All values are given: obstore would read missing ones from the environment by its own rules.
    return S3Store(
        bucket,
        aws_endpoint_url_s3=meta.endpoint_url,
        region=meta.region_name if meta.region_name != "aws-global" else "us-east-1",
        virtual_hosted_style_request=False,
        skip_signature=bool(fs.anon),
        request_payer=bool(fs.requester_pays),
        credential_provider=None if fs.anon else _credentials(fs),
        client_options=client,  # type: ignore[arg-type]
        retry_config=retry,  # type: ignore[arg-type]
    )


def _credentials(fs: FileSystem) -> Callable[[], Any]:
    """Return the function that gives obstore the keys of s3fs; botocore renews temporary keys."""
    given = {
        "key": fs.key or fs.client_kwargs.get("aws_access_key_id"),
        "secret": fs.secret or fs.client_kwargs.get("aws_secret_access_key"),
        "token": fs.token or fs.client_kwargs.get("aws_session_token"),
    }

    async def found() -> tuple[str, str, str | None]:
        keys = await fs.session.get_credentials()
        if keys is None:
            raise botocore.exceptions.NoCredentialsError
        frozen = await keys.get_frozen_credentials()
        return frozen.access_key, frozen.secret_key, frozen.token

    def provide() -> dict[str, Any]:
        if given["key"] and given["secret"]:
            key, secret, token = given["key"], given["secret"], given["token"]
        else:
            key, secret, token = sync(fs.loop, found)
        return {
            "access_key_id": key,
            "secret_access_key": secret,
            "token": token,
            "expires_at": datetime.now(UTC) + timedelta(seconds=_RENEW_S),
        }

    provide()  # missing keys raise here, and not in a single request
    return provide


def explain(uri: str, error: Exception, seconds: float, *, read: bool) -> StorageError:
    """Return an error of one line; UnreadableError if only the object that was read is affected."""
    return s3_errors.explain(uri, error, seconds, _endpoint_or_none(), read=read)


def _endpoint_or_none() -> str:
    try:
        return endpoint()
    except Exception:  # perhaps the error that is being explained is the cause
        return "the endpoint"
