"""The bundles that are served, kept in the cluster itself.

A replica may start while its URI holds another bundle, or an incomplete one. It finds the served
bundle here, in the memory of Ray's head node. Ray keeps the code of jobs there too, and every node
can reach it. So no disk holds the bundle, and it is gone when the cluster ends.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from ray.experimental import internal_kv as kv

from audiocnn import storage
from audiocnn.errors import MismatchError
from audiocnn.model.bundle import Bundle
from audiocnn.storage.scratch import Scratch

_NAMESPACE = b"audiocnn"
_SERVED = b"served"
_FILES = ("bundle.json", "model.safetensors")
_PIECE = 64 << 20
"""Bytes of one message; Ray accepts up to 512 MiB."""


def keep(uri: str) -> str:
    """Read the bundle at a URI and keep it; return its fingerprint.

    Raises AudioCNNError if it does not load, or if it is overwritten while it is read.
    """
    fingerprint = Bundle.read(uri).fingerprint
    files = {name: storage.read_bytes(storage.join(uri, name)) for name in _FILES}
    _check(files, fingerprint, uri)
    for name, data in files.items():
        pieces = [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)]
        for number, piece in enumerate(pieces):
            kv._internal_kv_put(f"{fingerprint}/{name}/{number}", piece, namespace=_NAMESPACE)
        # Written last: a file that has this entry is complete.
        kv._internal_kv_put(f"{fingerprint}/{name}", str(len(pieces)), namespace=_NAMESPACE)
    return fingerprint


def read(fingerprint: str) -> Bundle | None:
    """Return the bundle of this fingerprint; None if it is not kept. Raises AudioCNNError."""
    files = {}
    for name in _FILES:
        count = _get(f"{fingerprint}/{name}")
        pieces = [_get(f"{fingerprint}/{name}/{number}") for number in range(int(count or 0))]
        if not pieces or None in pieces:
            return None
        files[name] = b"".join(piece for piece in pieces if piece is not None)
    with Scratch() as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        return Bundle.read(folder)


def served() -> dict[str, str] | None:
    """Return the fingerprints `now` of the last `settle`; None before the first."""
    text = _get(_SERVED.decode())
    return None if text is None else json.loads(text)


def settle(now: dict[str, str], before: dict[str, str] | None = None) -> None:
    """Record the fingerprints that are served now. Delete all bundles except these and `before`.

    Replicas with the bundles of `before` may still answer requests.
    """
    kv._internal_kv_put(_SERVED, json.dumps(now), namespace=_NAMESPACE)
    wanted = {*now.values(), *(before or {}).values()}
    for key in kv._internal_kv_list(b"", namespace=_NAMESPACE):
        if key != _SERVED and key.split(b"/")[0].decode() not in wanted:
            kv._internal_kv_del(key, namespace=_NAMESPACE)


def forget() -> None:
    """Delete all bundles and the record of the served ones."""
    kv._internal_kv_del(b"", del_by_prefix=True, namespace=_NAMESPACE)


def _check(files: dict[str, bytes], fingerprint: str, uri: str) -> None:
    """Raise MismatchError if the files are not those of the bundle that was read."""
    weights = hashlib.sha256(files["model.safetensors"]).hexdigest()
    try:
        described: dict[str, Any] = json.loads(files["bundle.json"])
        same = (described["fingerprint"], described["weights_sha256"]) == (fingerprint, weights)
    except (ValueError, KeyError, TypeError):  # the file is incomplete
        same = False
    if not same:
        raise MismatchError(f"{uri}: the bundle was overwritten while it was read; try again")


def _get(key: str) -> bytes | None:
    found: bytes | None = kv._internal_kv_get(key, namespace=_NAMESPACE)
    return found
