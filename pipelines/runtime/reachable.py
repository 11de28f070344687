"""Whether every node of a cluster can reach what a command line names. Imports no torch, no ray."""

import os
from collections.abc import Iterator
from typing import Any

from audiocnn import storage
from audiocnn.errors import ConfigError

SHARED_DISK = "AUDIOCNN_SHARED_DISK"
"""Set to 1 where each node of a cluster has the same disk in the same place."""
_PLACES = (
    "corpus", "features", "bucket", "bundle", "beside", "labels", "calibration", "to_clip", "to",
)  # fmt: skip


def require_shared(options: Any, whose: str) -> None:
    """Raise ConfigError where an option names a path of one machine alone."""
    for flag, uri in _local(options):
        if os.environ.get(SHARED_DISK) != "1":
            raise ConfigError(
                f"{flag} {uri}: a path of one machine, and {whose}; name a place in object "
                f"storage, like s3://bucket/{os.path.basename(uri.rstrip('/'))} ({SHARED_DISK}=1 "
                "where each node has this disk in this place)"
            )
    require_whole(options)


def require_whole(options: Any) -> None:
    """Raise ConfigError where an option names a path below the working directory."""
    for flag, uri in _local(options):
        if not os.path.isabs(uri.removeprefix("file://")):
            raise ConfigError(
                f"{flag} {uri}: a job has its own working directory; give a whole path"
            )


def _local(options: Any) -> Iterator[tuple[str, str]]:
    """Flags and values that are paths."""
    for name in _PLACES:
        value = getattr(options, name, None)
        if value and storage.is_local(value):
            yield f"--{name.replace('_', '-')}", value
