"""Check that all nodes of a cluster can reach the paths of a command. Imports no torch, no ray."""

import os
from collections.abc import Iterator
from typing import Any, get_type_hints

from audiocnn import storage
from audiocnn.config import Variable
from audiocnn.errors import ConfigError

_PLACES = (
    "corpus", "features", "bucket", "bundle", "beside", "labels", "calibration", "to_clip", "to",
)  # fmt: skip


def require_shared(options: Any, why: str) -> None:
    """Raise ConfigError if an option names a path that only one machine has, or a relative path."""
    for name, uri in _local(options):
        if Variable.SHARED_DISK.get() != "1":
            raise ConfigError(
                f"{name} {uri}: a path of one machine, and {why}; give a URI in object storage, "
                f"like s3://bucket/{os.path.basename(uri.rstrip('/'))}, or set "
                f"{Variable.SHARED_DISK}=1 if all nodes have this disk at this path"
            )
    require_whole(options)


def require_whole(options: Any) -> None:
    """Raise ConfigError if an option names a path that is relative to the working directory."""
    for name, uri in _local(options):
        if not os.path.isabs(uri.removeprefix("file://")):
            raise ConfigError(
                f"{name} {uri}: a job has its own working directory; give an absolute path"
            )


def _local(options: Any) -> Iterator[tuple[str, str]]:
    """Yield the name, as in --help, and the value of each option that is a local path."""
    for name in _PLACES:
        value = getattr(options, name, None)
        if value and storage.is_local(value):
            yield _in_help(options, name), value


def _in_help(options: Any, name: str) -> str:
    """Return the flag of an option, or the metavar of a positional one."""
    hint = get_type_hints(type(options), include_extras=True)[name]
    for mark in getattr(hint, "__metadata__", ()):
        if metavar := getattr(mark, "metavar", None):
            return str(metavar).strip("[]")
    return f"--{name.replace('_', '-')}"
