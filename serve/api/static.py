"""The dashboard at `/`: the files of its build, and generated sounds to try it with."""

import base64
import gzip
import hashlib
import mimetypes
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from starlette.responses import Response

from audiocnn.audio.encode import encode
from audiocnn.corpus.synthetic import sound
from serve.api.encoding import pick_encoding
from serve.problems import Problem

BUILT = Path(__file__).parents[1] / "page"
"""Folder that `make dashboard` writes."""
SAMPLES = ("siren", "bell", "rising chirp", "click train", "one minute")

_RATE = 22_050
_MEDLEY = ("siren", "bell", "steady hiss", "rising chirp", "buzz", "thuds")
_INLINE = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)
_FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, kw_only=True)
class _File:
    body: bytes
    packed: bytes
    headers: dict[str, str]


@lru_cache(maxsize=1)
def _files() -> dict[str, _File]:
    """Read every file of the build; return them by their paths."""
    found = {}
    for path in sorted(BUILT.rglob("*")):
        if path.is_file():
            name, body = path.relative_to(BUILT).as_posix(), path.read_bytes()
            headers = {
                "content-type": mimetypes.guess_type(name)[0] or "application/octet-stream",
                "cache-control": _FOR_EVER if name.startswith("_next/") else "no-cache",
                "vary": "accept-encoding",
            }
            if name.endswith(".html"):
                headers |= {
                    "content-security-policy": policy(body),
                    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
                    "referrer-policy": "no-referrer",
                }
            packed = gzip.compress(body, mtime=0)
            found[name] = _File(body=body, packed=packed, headers=headers)
    return found


def policy(html: bytes) -> str:
    """Return the Content-Security-Policy of a page.

    It allows scripts of this origin and, by their hashes, the inline scripts of the page. It allows
    no other scripts.
    """
    scripts = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
        for script in dict.fromkeys(_INLINE.findall(html))
    )
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self'; img-src 'self' data:; "
        "media-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def page(name: str, accepted: str) -> Response:
    """Return a file of the build, gzipped if the client accepts it. Raises Problem if missing."""
    file = _files().get(name)
    if file is None:
        raise Problem("not-found", f"the dashboard has no file {name!r}")
    if pick_encoding(accepted, ("gzip",)):
        return Response(file.packed, headers={**file.headers, "content-encoding": "gzip"})
    return Response(file.body, headers=file.headers)


@lru_cache(maxsize=len(SAMPLES))
def sample(name: str) -> bytes:
    """Return a generated sound as FLAC. Raises Problem if no sample has this name."""
    if name not in SAMPLES:
        raise Problem("not-found", f"no sample {name!r}; the samples are {', '.join(SAMPLES)}")
    if name == "one minute":
        parts = [sound(part, [7, at], 10.0, _RATE) for at, part in enumerate(_MEDLEY)]
        return encode(np.concatenate(parts), _RATE, "flac")
    return encode(sound(name, 7, 4.0, _RATE), _RATE, "flac")
