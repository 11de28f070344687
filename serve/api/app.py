"""The application: the routes behind the gate, with every error as problem+json."""

import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from audiocnn import __version__
from serve.api import schemas
from serve.api.gate import PROBLEM_KEY, App, Gate
from serve.api.routes import ROUTES
from serve.api.routes.common import Context, described
from serve.engine.label_browser import LabelBrowser
from serve.engine.metrics import EndpointMetrics
from serve.engine.service import Service
from serve.options import Serve
from serve.problems import KINDS, Problem

_KINDS_BY_STATUS = {404: "not-found", 405: "method"}
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_DESCRIPTION = (
    "Predictions for a sound, the model's input, and the feature maps of every layer. Errors are "
    "problem+json; each `type` is a page of this server."
)


def make_app(
    service: Callable[[], Service],
    options: Serve,
    keys: tuple[str, ...],
    metrics: EndpointMetrics | None = None,
    *,
    labels: LabelBrowser | None = None,
    beside: Callable[[], Service] | None = None,
    token: str | None = None,
) -> App:
    """Build the whole application; `service` returns the current service, or raises Problem.

    `labels` are the labels, and `beside` returns the service of the second bundle; None if the
    endpoint has none. With a `token` it answers only requests that carry it: the proxy adds it.
    """
    metrics = metrics or EndpointMetrics()
    context = Context(current=service, metrics=metrics, labels=labels, beside=beside)
    api = make_api(context, with_keys=bool(keys))
    app: App = Gate(api, options, keys, metrics, token)
    if options.cors:
        app = CORSMiddleware(
            app,
            allow_origins=options.cors,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key"],
            expose_headers=["retry-after", "x-request-id"],
        )
    return app


def make_api(context: Context, *, with_keys: bool) -> FastAPI:
    """Build the routes and the OpenAPI document that describes them."""
    api = FastAPI(
        title="audiocnn",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        responses={
            status: described(*(kind for kind in KINDS.values() if kind.status == status))
            for status in sorted({kind.status for kind in KINDS.values()} - set(_KINDS_BY_STATUS))
        },
    )
    for route in ROUTES:
        route.add(api, context)
    _answer_mistakes(api)
    _document(api, with_keys=with_keys)
    return api


def _answer_mistakes(api: FastAPI) -> None:
    @api.exception_handler(Problem)
    async def _problem(request: Request, problem: Problem) -> Response:
        request.scope[PROBLEM_KEY] = problem.name
        return problem.response()

    @api.exception_handler(RequestValidationError)
    async def _option(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:]) or "request"
        return await _problem(
            request, Problem("option", f"{name}: {first['msg']}", more={"field": name})
        )

    @api.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        name = _KINDS_BY_STATUS.get(error.status_code, "malformed")
        headers = dict(error.headers or {})
        if methods := headers.pop("Allow", None):
            headers["allow"] = methods.replace("GET", "GET, HEAD") + ", OPTIONS"
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
        return await _problem(request, Problem(name, str(error.detail), headers=headers))

    @api.exception_handler(Exception)
    async def _bug(request: Request, _: Exception) -> Response:
        return await _problem(request, Problem("internal", "see the server's log"))


def _document(api: FastAPI, *, with_keys: bool) -> None:
    """Make the OpenAPI document describe what the routes really accept and return."""
    plain = api.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        known = document["components"]["schemas"]
        for kind in (schemas.ProblemBody, schemas.TutorialRequest):
            known[kind.__name__] = kind.model_json_schema()
        known.pop("HTTPValidationError", None)
        known.pop("ValidationError", None)
        if with_keys:
            document["components"]["securitySchemes"] = _KEYS
            document["security"] = [{name: []} for name in _KEYS]
        return document

    api.openapi = openapi  # type: ignore[method-assign]


def _nothing() -> Service:
    raise Problem("not-ready", "this process has no model")


if __name__ == "__main__":  # the dashboard's types are generated from this output
    context = Context(current=_nothing, metrics=EndpointMetrics())
    print(json.dumps(make_api(context, with_keys=False).openapi(), indent=1))
