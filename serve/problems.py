"""The errors that the endpoint answers with, as problem+json (RFC 9457)."""

from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.responses import Response

from audiocnn.errors import FAILURE_REASONS, AudioError, InstallationError


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of problem. Its `type` is /problems/ followed by its name."""

    status: int
    title: str
    mend: str
    """Advice to the client."""


KINDS = {
    "malformed": Kind(
        status=400,
        title="The request cannot be read",
        mend="send the recording as the body, or as the field `file` of a multipart form",
    ),
    "empty": Kind(status=400, title="The recording is empty", mend="send a recording"),
    "key": Kind(
        status=401,
        title="The API key is missing or not known",
        mend="send `Authorization: Bearer KEY` or `X-API-Key: KEY`",
    ),
    "origin": Kind(
        status=403,
        title="This origin or host name is not allowed",
        mend="use the address that the endpoint listens on, or list the origin in --cors",
    ),
    "not-found": Kind(status=404, title="Not found", mend="see /docs"),
    "method": Kind(status=405, title="This path does not accept this method", mend="see /docs"),
    "changed": Kind(
        status=410,
        title="The recording was changed or removed since it was labelled",
        mend="label the bucket again",
    ),
    "slow-upload": Kind(
        status=408, title="The request took too long to arrive", mend="send it faster, or send less"
    ),
    "too-large": Kind(
        status=413,
        title="The request has too many bytes",
        mend="send a shorter or compressed recording",
    ),
    "too-long": Kind(
        status=413,
        title="The recording is too long",
        mend="send it in pieces, or label it with `audiocnn label`",
    ),
    "not-audio": Kind(
        status=415,
        title="The audio format is not supported",
        mend="send WAV (PCM, float, A-law, mu-law), FLAC, OGG (Vorbis, Opus) or MP3, "
        "without Content-Encoding",
    ),
    "misdirected": Kind(
        status=421,
        title="The request did not come through this endpoint's own address",
        mend="send the request to the address that `audiocnn serve` prints",
    ),
    "option": Kind(status=422, title="An option is not valid", mend="see /docs"),
    "audio": Kind(
        status=422,
        title="The recording cannot be used",
        mend="see `reason`: the recording is damaged, truncated or outside the limits",
    ),
    "rate": Kind(
        status=429,
        title="Too many requests with this key",
        mend="wait for the seconds in Retry-After",
    ),
    "internal": Kind(
        status=500, title="Internal error", mend="report it, with the answer's X-Request-ID"
    ),
    "lost": Kind(status=502, title="The replica was lost", mend="try again"),
    "busy": Kind(
        status=503, title="The replica is busy", mend="wait for the seconds in Retry-After"
    ),
    "not-ready": Kind(status=503, title="The endpoint is not ready", mend="wait, and try again"),
    "storage": Kind(
        status=503,
        title="The storage of the labels or recordings cannot be reached",
        mend="see the server's log, and try again",
    ),
    "slow-answer": Kind(
        status=504, title="The answer took too long", mend="request less, or try again"
    ),
}
"""Every kind of problem, by the name in its `type`."""

_OF_AUDIO = {
    "unrecognised": "not-audio",
    "too_large": "too-large",
    "too_long": "too-long",
}
"""Names of problems by the reason of an AudioError. All other reasons are the problem `audio`."""


@dataclass
class Problem(Exception):
    """An error that becomes a problem+json answer; `name` is a key of KINDS."""

    name: str
    detail: str
    headers: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    """Further members of the JSON body."""

    @property
    def status(self) -> int:
        """HTTP status code."""
        return KINDS[self.name].status

    def to_json(self) -> dict[str, Any]:
        """Return the JSON body of the answer."""
        return {
            "type": f"/problems/{self.name}",
            "title": KINDS[self.name].title,
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }

    def response(self) -> Response:
        """Return the HTTP answer."""
        return Response(
            orjson.dumps(self.to_json()),
            self.status,
            {"cache-control": "no-store", **self.headers},
            "application/problem+json",
        )

    @staticmethod
    def of_decoder(error: AudioError | InstallationError) -> "Problem":
        """Return the problem for a recording that was not decoded."""
        if isinstance(error, InstallationError):
            detail = "the decoder does not start: see the server's log"
            return Problem("not-ready", detail, headers={"retry-after": "5"})
        name = _OF_AUDIO.get(error.reason, "audio")
        detail = f"{FAILURE_REASONS[error.reason]}: {error.detail}"
        return Problem(name, detail, more={"reason": error.reason})

    def __reduce__(self) -> tuple[Any, ...]:
        return Problem, (self.name, self.detail, self.headers, self.more)
