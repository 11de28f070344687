"""The routes: HTTP in, what the service says out, and every mistake as problem+json."""

import asyncio
import base64
import binascii
import json
from collections.abc import Callable
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from audiocnn import __version__
from serve.api import docs_page, schemas, static
from serve.api.encoding import JsonResponse
from serve.api.gate import NAME_IN_SCOPE, App, Gate
from serve.api.stream import stream
from serve.engine.label_browser import Results
from serve.engine.metrics import EndpointMetrics
from serve.engine.service import Service
from serve.options import Serve
from serve.problems import KINDS, Kind, Problem

_KINDS_BY_STATUS = {404: "not-found", 405: "method"}
_AUDIO = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "required": True,
    "content": {
        "application/octet-stream": _AUDIO,
        "audio/*": _AUDIO,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "string", "format": "binary"}},
                "required": ["file"],
            }
        },
    },
}
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_DESCRIPTION = (
    "Predictions for a sound, the input as the model saw it, and the feature maps of every "
    "layer. Mistakes are problem+json; each `type` is a page of this server."
)


def make_app(
    service: Callable[[], Service],
    options: Serve,
    keys: tuple[str, ...],
    meters: EndpointMetrics | None = None,
    *,
    results: Results | None = None,
    beside: Callable[[], Service] | None = None,
    token: str | None = None,
) -> App:
    """The whole application; `service` gives the current one, or raises Problem.

    `results` are the labels, and `beside` gives the other bundle's service, where there are such.
    With a `token` it answers only what the proxy that has it passes on.
    """
    meters = meters or EndpointMetrics()
    api = make_api(service, meters, with_keys=bool(keys), results=results, beside=beside)
    app: App = Gate(api, options, keys, meters, token)
    if options.cors:
        app = CORSMiddleware(
            app,
            allow_origins=options.cors,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key"],
            expose_headers=["retry-after", "x-request-id"],
        )
    return app


def make_api(
    service: Callable[[], Service],
    meters: EndpointMetrics,
    *,
    with_keys: bool,
    results: Results | None = None,
    beside: Callable[[], Service] | None = None,
) -> FastAPI:
    """The routes, and the OpenAPI document that describes them."""

    def either(other: bool) -> Service:
        if not other:
            return service()
        if beside is None:
            raise Problem("not-found", "no bundle stands beside: this endpoint was given none")
        return beside()

    api = FastAPI(
        title="audiocnn",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        responses={
            kind.status: _described(kind)
            for kind in KINDS.values()
            if kind.status not in _KINDS_BY_STATUS
        },
    )
    _add_predict(api, either, meters)
    _add_tutorial(api, service)
    _add_card(api, either, with_labels=results is not None, with_other=beside is not None)
    _add_health(api, service)
    _add_labels(api, service, results)
    _add_documents(api)
    _add_dashboard(api)

    @api.websocket("/v1/stream")
    async def _stream(socket: WebSocket) -> None:
        try:
            await stream(socket, service)
        except Problem as problem:
            socket.scope[NAME_IN_SCOPE] = problem.name
            await socket.send_denial_response(problem.response())

    _answer_mistakes(api)
    _document(api, with_keys=with_keys)
    return api


def _described(kind: Kind) -> dict[str, Any]:
    """A problem in the OpenAPI document."""
    schema = {"schema": {"$ref": "#/components/schemas/ProblemBody"}}
    return {"description": kind.title, "content": {"application/problem+json": schema}}


def _add_predict(api: FastAPI, either: Callable[[bool], Service], meters: EndpointMetrics) -> None:
    @api.post(
        "/v1/predict",
        response_model=schemas.Answer,
        response_model_exclude_unset=True,
        responses={404: _described(KINDS["not-found"])},
        openapi_extra={"requestBody": _BODY},
        summary="Predictions for a recording, and the inside that led to them",
    )
    async def _predict(
        request: Request, options: Annotated[schemas.PredictOptions, Query()]
    ) -> JsonResponse:
        service = either(options.beside)
        answer = await service.predict(await _recording(request), options.asked())
        meters.windows(len(answer["windows"]))
        return JsonResponse(answer, request.headers.get("accept-encoding", ""))


def _add_tutorial(api: FastAPI, service: Callable[[], Service]) -> None:
    @api.post(
        "/inference",
        response_model=schemas.TutorialAnswer,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/TutorialRequest"}}
                },
            }
        },
        summary="The same for clients of the tutorial that this project grew from",
    )
    async def _inference(request: Request) -> JsonResponse:
        answer = await service().tutorial(_from_base64(await request.body()))
        return JsonResponse(answer, request.headers.get("accept-encoding", ""))


def _add_card(
    api: FastAPI, either: Callable[[bool], Service], *, with_labels: bool, with_other: bool
) -> None:
    @api.get(
        "/v1/model",
        response_model=schemas.Card,
        responses={404: _described(KINDS["not-found"])},
        summary="The model that answers, or the one beside",
    )
    async def _card(
        request: Request, options: Annotated[schemas.CardOptions, Query()]
    ) -> JsonResponse:
        other = either(True).bundle.fingerprint if with_other else None
        card = {**either(options.beside).card(), "labels": with_labels, "beside": other}
        return JsonResponse(card, request.headers.get("accept-encoding", ""))


def _add_health(api: FastAPI, service: Callable[[], Service]) -> None:
    @api.get("/healthz", response_model=schemas.Health, summary="Whether this process lives")
    async def _healthz() -> dict[str, str]:
        return {"status": "ok", "bundle": service().bundle.fingerprint}

    @api.get("/readyz", response_model=schemas.Health, summary="Whether the model answers")
    async def _readyz() -> dict[str, str]:
        await service().check()
        return {"status": "ok", "bundle": service().bundle.fingerprint}


def _add_labels(api: FastAPI, service: Callable[[], Service], results: Results | None) -> None:
    def there() -> Results:
        if results is None:
            raise Problem("not-found", "this endpoint shows no labels: it was given no --labels")
        return results

    missing: dict[int | str, dict[str, Any]] = {404: _described(KINDS["not-found"])}

    @api.get(
        "/v1/labels",
        response_model=schemas.LabelsCard,
        responses=missing,
        summary="The labels that can be looked through",
    )
    async def _labels(request: Request) -> JsonResponse:
        return JsonResponse(await there().card(), request.headers.get("accept-encoding", ""))

    @api.get(
        "/v1/labels/windows",
        response_model=schemas.LabelledWindows,
        responses=missing,
        summary="Windows by class, score and name",
    )
    async def _windows(
        request: Request, options: Annotated[schemas.LabelsOptions, Query()]
    ) -> JsonResponse:
        found = await there().find(options.query())
        return JsonResponse(found, request.headers.get("accept-encoding", ""))

    @api.get(
        "/v1/labels/sound",
        response_class=Response,
        responses={200: {"content": {"audio/wav": _AUDIO}}, **missing},
        summary="The sound of a window",
    )
    async def _sound(
        uri: Annotated[str, Query(max_length=1_100)],  # what HAProxy takes, escaped
        start_s: Annotated[float, Query(allow_inf_nan=False)],
    ) -> Response:
        rate = service().bundle.feature.sample_rate
        return Response(await there().sound(uri, start_s, rate), media_type="audio/wav")

    @api.post(
        "/v1/labels/corrections",
        response_class=Response,
        responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}, **missing},
        summary="What windows really are -> a manifest for `audiocnn ingest`",
    )
    async def _corrections(asked: schemas.Corrections) -> Response:
        rows = [(row.uri, row.start_s, row.label) for row in asked.rows]
        name = {"content-disposition": 'attachment; filename="corrections.csv"'}
        return Response(await there().manifest(rows), headers=name, media_type="text/csv")


def _add_documents(api: FastAPI) -> None:
    @api.get("/docs", include_in_schema=False)
    async def _docs() -> HTMLResponse:
        return HTMLResponse(
            docs_page.page(api.openapi()), headers={"content-security-policy": docs_page.POLICY}
        )

    @api.get(
        "/problems/{name}",
        response_class=PlainTextResponse,
        responses={404: _described(KINDS["not-found"])},
        summary="What a problem's type means",
    )
    async def _problem(name: str) -> str:
        if name not in KINDS:
            raise Problem("not-found", f"no problem of this name: {', '.join(KINDS)}")
        kind = KINDS[name]
        return f"{kind.status} {kind.title}\n\nWhat to do: {kind.mend}.\n"


def _add_dashboard(api: FastAPI) -> None:
    @api.get("/", include_in_schema=False)
    async def _index(request: Request) -> Response:
        return static.page("index.html", request.headers.get("accept-encoding", ""))

    @api.get("/_next/{path:path}", include_in_schema=False)
    async def _file(request: Request, path: str) -> Response:
        return static.page(f"_next/{path}", request.headers.get("accept-encoding", ""))

    @api.get("/samples", summary="Names of generated sounds to try")
    async def _samples() -> list[str]:
        return list(static.SAMPLES)

    @api.get(
        "/samples/{name}.flac",
        response_class=Response,
        responses={
            200: {"content": {"audio/flac": _AUDIO}}, 404: _described(KINDS["not-found"])
        },
        summary="A generated sound",
    )  # fmt: skip
    async def _sample(name: str) -> Response:
        sound = await asyncio.to_thread(static.sample, name)
        return Response(sound, media_type="audio/flac")


async def _recording(request: Request) -> bytes:
    """The bytes of the recording that was sent. Raises Problem."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        return await request.body()
    try:
        async with request.form(max_files=1, max_fields=0) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile) or not file.filename:
                raise Problem("malformed", "a form needs one file: the field `file`, with a name")
            return await file.read()
    except HTTPException as error:
        raise Problem("malformed", f"multipart form: {error.detail}") from error


def _from_base64(body: bytes) -> bytes:
    try:
        text = orjson.loads(body)["audio_data"]
        data = text.partition(",")[2] if text.startswith("data:") else text
        return base64.b64decode(data, validate=True)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        message = 'the body must be {"audio_data": "a recording in base64"}'
        raise Problem("malformed", message) from error
    except (binascii.Error, ValueError) as error:
        raise Problem("malformed", f"audio_data is no base64: {error}") from error


def _answer_mistakes(api: FastAPI) -> None:
    @api.exception_handler(Problem)
    async def _problem(request: Request, problem: Problem) -> Response:
        request.scope[NAME_IN_SCOPE] = problem.name
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
    """Let the OpenAPI document say what the routes really take and give."""
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
    raise Problem("not-ready", "there is only the document")


if __name__ == "__main__":  # what the dashboard's types are generated from
    print(json.dumps(make_api(_nothing, EndpointMetrics(), with_keys=False).openapi(), indent=1))
