"""Code that several routes share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from serve.api.encoding import JsonResponse
from serve.engine.label_browser import LabelBrowser
from serve.engine.metrics import EndpointMetrics
from serve.engine.service import Service
from serve.problems import KINDS, Kind, Problem

AUDIO = {"schema": {"type": "string", "format": "binary"}}
"""The media type of a recording in the OpenAPI document."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """The services and labels that the routes answer from."""

    current: Callable[[], Service]
    """Returns the service of the current bundle, or raises Problem."""
    metrics: EndpointMetrics
    labels: LabelBrowser | None = None
    """Labels to browse; None if the endpoint has no --labels."""
    beside: Callable[[], Service] | None = None
    """Returns the service of the second bundle; None if the endpoint has no --beside."""

    def service(self, *, beside: bool) -> Service:
        """Return the service of the current bundle, or of the second one. Raises Problem."""
        if not beside:
            return self.current()
        if self.beside is None:
            raise Problem("not-found", "this endpoint has no second bundle: start it with --beside")
        return self.beside()


def described(*kinds: Kind) -> dict[str, Any]:
    """Return the response of problems with the same status, for the OpenAPI document."""
    schema = {"schema": {"$ref": "#/components/schemas/ProblemBody"}}
    titles = "; ".join(kind.title for kind in kinds)
    return {"description": titles, "content": {"application/problem+json": schema}}


def not_found() -> dict[int | str, dict[str, Any]]:
    """Return a response with status 404, for the OpenAPI document."""
    return {404: described(KINDS["not-found"])}


def answer(request: Request, content: dict[str, Any]) -> JsonResponse:
    """Return a JSON answer in an encoding that the client accepts."""
    return JsonResponse(content, request.headers.get("accept-encoding", ""))
