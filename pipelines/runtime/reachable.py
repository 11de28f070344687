"""Check that all nodes of a cluster can reach the paths of a command. Imports no torch, no ray."""

import os
from collections.abc import Iterator
from typing import Any

from audiocnn import storage
from audiocnn.config import Variable
from audiocnn.errors import ConfigError

_PLACES = (
    "corpus", "features", "bucket", "bundle", "beside", "labels", "calibration", "to_clip", "to",
)  # fmt: skip


def require_shared(options: Any, why: str) -> None:
    """Raise ConfigError if an option names a path that only one machine has, or a relative path."""
    for flag, uri in _local(options):
        if Variable.SHARED_DISK.get() != "1":
            raise ConfigError(
                f"{flag} {uri}: a path of one machine, and {why}; give a URI in object storage, "
                f"like s3://bucket/{os.path.basename(uri.rstrip('/'))}, or set "
                f"{Variable.SHARED_DISK}=1 if all nodes have this disk at this path"
            )
    require_whole(options)


def require_whole(options: Any) -> None:
    """Raise ConfigError if an option names a path that is relative to the working directory."""
    for flag, uri in _local(options):
        if not os.path.isabs(uri.removeprefix("file://")):
            raise ConfigError(
                f"{flag} {uri}: a job has its own working directory; give an absolute path"
            )


def _local(options: Any) -> Iterator[tuple[str, str]]:
    """Yield the flag and the value of each option that is a local path."""
    for name in _PLACES:
        value = getattr(options, name, None)
        if value and storage.is_local(value):
            yield f"--{name.replace('_', '-')}", value
