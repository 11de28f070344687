"""What several routes need."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from serve.api.encoding import JsonResponse
from serve.engine.label_browser import Results
from serve.engine.metrics import EndpointMetrics
from serve.engine.service import Service
from serve.problems import KINDS, Kind, Problem

AUDIO = {"schema": {"type": "string", "format": "binary"}}
"""The schema of a recording."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the routes answer with."""

    current: Callable[[], Service]
    """Gives the service of the current bundle, or raises Problem."""
    metrics: EndpointMetrics
    results: Results | None = None
    """The labels to look through, where the endpoint was given some."""
    beside: Callable[[], Service] | None = None
    """Gives the service of the other bundle, where the endpoint was given one."""

    def service(self, *, beside: bool) -> Service:
        """The service of the current bundle, or of the one beside. Raises Problem."""
        if not beside:
            return self.current()
        if self.beside is None:
            raise Problem("not-found", "no bundle stands beside: this endpoint was given none")
        return self.beside()


def described(kind: Kind) -> dict[str, Any]:
    """A problem in the OpenAPI document."""
    schema = {"schema": {"$ref": "#/components/schemas/ProblemBody"}}
    return {"description": kind.title, "content": {"application/problem+json": schema}}


def not_found() -> dict[int | str, dict[str, Any]]:
    """A 404 in the OpenAPI document."""
    return {404: described(KINDS["not-found"])}


def answer(request: Request, content: dict[str, Any]) -> JsonResponse:
    """JSON in an encoding that the client takes."""
    return JsonResponse(content, request.headers.get("accept-encoding", ""))
