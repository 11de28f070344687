"""S3 and what speaks like it: one resolution of endpoint, region and keys, for two clients.

s3fs resolves them: from `storage.configure`, AWS_* variables, and AWS profiles. It lists, writes
and removes. Whole objects and ranges are read by obstore, built from what s3fs resolved: it
takes an eighth of the CPU time that s3fs takes for a GET of 440 KB.

How long a request may take: no new attempt begins `PATIENCE_S` after the first, and an attempt
ends after 5 s without a connection or 15 s without a byte (a PUT: after 20 s and what its bytes
take at 250 kB/s). Measured, for either client: a closed port, connections that are closed and
503 SlowDown are given up after 18 to 24 s, a silent server after 31 s, and one that is killed and
back in 14 s is ridden out. AWS_MAX_ATTEMPTS, and `retries`, `connect_timeout` and `read_timeout`
in the storage option `config_kwargs`, replace these; attempts are then counted, not timed.
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
"""Seconds after which a request that failed is not tried again."""

_LONGEST_WAIT_S = 3.0
_SLOWEST_BYTES_PER_S = 250_000
_RENEW_S = 600
_NOT_FOR_OBSTORE = re.compile(r"[\x00-\x1f\x7f]|//|/$|^/|(^|/)\.{1,2}(/|$)")
"""Keys that obstore's paths cannot name: control characters, empty and dot segments. s3fs reads
them. SeaweedFS refuses dot segments, and lists `a//b` and `a\\b` as `a/b`, by which they are read.
s3fs cuts a key it writes or removes at `?versionId=`; such keys are listed and read."""


class FileSystem(S3FileSystem):  # type: ignore[misc]
    """s3fs that waits for a while and not for a count, and keeps no listings.

    s3fs and botocore each count attempts, so theirs multiply, and neither waits for a port that
    is closed for some seconds; both are told to try once.
    """

    retries = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        config = dict(kwargs.pop("config_kwargs", None) or {})
        counted = "retries" in config or "AWS_MAX_ATTEMPTS" in os.environ
        self.patience_s = 0.0 if counted else PATIENCE_S
        if not counted:
            config["retries"] = {"total_max_attempts": 1}
        kwargs.setdefault("use_listings_cache", False)  # listings are kept for ever otherwise
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
        """Seconds for sending a body: aiohttp has no limit on that, nor on waiting to begin."""
        if body is None:
            return None
        config = self._prepare_config_kwargs()
        timeouts: float = config["connect_timeout"] + config["read_timeout"]
        return timeouts + len(body) / _SLOWEST_BYTES_PER_S

    def call(self, method: str, **kwargs: Any) -> Any:
        """One operation of the S3 API; names that s3fs would read as patterns are safe here."""
        return sync(self.loop, self._call_s3, method, **kwargs)

    def fetch(
        self, bucket: str, key: str, most: int | None, version: str | None, **kwargs: Any
    ) -> bytes:
        """An object's first bytes, by one GET; with a `version`, only where that is its ETag."""
        asked = kwargs | ({"IfMatch": version} if version else {})

        async def read() -> bytes:
            answer = await self._call_s3("get_object", Bucket=bucket, Key=key, **asked)
            async with answer["Body"] as body:
                data: bytes = await body.read(most)
                return data

        found: bytes = sync(self.loop, read)
        return found


def filesystem() -> FileSystem:
    """The s3fs filesystem of this process, as it is configured now. Raises ConfigError."""
    try:
        fs = FileSystem()
        fs.connect()
        # botocore's own takes half of the time of a listing.
        parsers = fs.session.get_component("response_parser_factory")
        parsers.set_parser_defaults(timestamp_parser=_timestamp)
    except (TypeError, KeyError, ValueError) as error:  # an unknown option, or an odd value
        raise ConfigError(f"--storage-options: s3: {error}") from error
    return fs


def _timestamp(value: Any) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):  # a number, or HTTP's form
        found: datetime = parse_timestamp(value)
        return found


def forget() -> None:
    """Drop connections, so that the next call resolves endpoint and keys anew."""
    FileSystem.clear_instance_cache()
    _store.cache_clear()


def endpoint() -> str:
    """The URL that requests go to."""
    url: str = filesystem()._s3.meta.endpoint_url
    return url


def pages(path: str) -> Iterator[list[tuple[str, int, str]]]:
    """Names (`bucket/key`), sizes and ETags below a path, as many at a time as a request gives.

    The empty objects ending in `/` that stand for folders are left out. Raises StorageError where
    nothing is below it; a bucket may be empty.
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
    """Names between slashes that follow a path, in order."""
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
    """An object (`bucket/key`) by one GET; with `most`, at most that many bytes and one more.

    A longer object's other bytes are not fetched. With a `version`, only where that is its ETag.
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
    """`size` bytes of an object from `offset` on, where it has them; `version` as for `read`.

    The end must not lie past the object's: some servers refuse that with 416.
    """
    bucket, _, key = path.partition("/")
    if _NOT_FOR_OBSTORE.search(key):
        span = f"bytes={offset}-{offset + size - 1}"
        return filesystem().fetch(bucket, key, size, version, Range=span)
    options: Any = {"range": (offset, offset + size)} | ({"if_match": version} if version else {})
    return obstore.get(_store(bucket), key, options=options).bytes().to_bytes()


def head(path: str) -> tuple[int, str | None]:
    """Size and ETag of an object."""
    bucket, _, key = path.partition("/")
    try:
        if _NOT_FOR_OBSTORE.search(key):
            answer = filesystem().call("head_object", Bucket=bucket, Key=key)
            return answer["ContentLength"], answer.get("ETag")
        meta = obstore.head(_store(bucket), key)
    except (OSError, obstore.exceptions.PermissionDeniedError):
        read(path, 0)  # raises with the reason: the answer to a HEAD has none
        raise
    return meta["size"], meta["e_tag"]


def exists(path: str) -> bool:
    """Whether there is an object, or one below it; an emptied folder is none."""
    bucket, _, key = path.partition("/")
    fs = filesystem()
    if key:
        try:
            fs.call("head_object", Bucket=bucket, Key=key)
            return True
        except OSError as error:
            if s3_errors.answer(error)[1] >= 500:
                raise
            # The answer to a HEAD has no reason; that of the listing has.
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
    """Obstore's client of a bucket, from what s3fs resolved; one a process.

    A process that is forked after its first read cannot use it: obstore's threads are not there.
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
    # Everything is given, for obstore would fill a gap from the environment by rules of its own.
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
    """What obstore asks for keys: s3fs's, renewed by botocore where they are temporary."""
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

    provide()  # here, where a lack of keys is no error of one request
    return provide


def explain(uri: str, error: Exception, seconds: float, *, read: bool) -> StorageError:
    """One line on what either client raised; UnreadableError where it is about one object read."""
    return s3_errors.explain(uri, error, seconds, _endpoint_or_none(), read=read)


def _endpoint_or_none() -> str:
    try:
        return endpoint()
    except Exception:  # what is being explained already may be why
        return "the endpoint"
