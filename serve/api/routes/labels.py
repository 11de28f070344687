"""Browse labels and correct them: `/v1/labels`."""

from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi.responses import Response

from serve.api import schemas
from serve.api.encoding import JsonResponse
from serve.api.routes.common import AUDIO, Context, answer, not_found
from serve.engine.label_browser import LabelBrowser
from serve.problems import Problem


def add(api: FastAPI, context: Context) -> None:
    """Add the routes below `/v1/labels`."""

    def there() -> LabelBrowser:
        if context.labels is None:
            raise Problem("not-found", "this endpoint has no labels: start it with --labels")
        return context.labels

    @api.get(
        "/v1/labels",
        response_model=schemas.LabelsCard,
        responses=not_found(),
        summary="State of the labels",
    )
    async def _labels(request: Request) -> JsonResponse:
        return answer(request, await there().card())

    @api.get(
        "/v1/labels/windows",
        response_model=schemas.LabelledWindows,
        responses=not_found(),
        summary="Windows, selected by class, score and name",
    )
    async def _windows(
        request: Request, options: Annotated[schemas.LabelsOptions, Query()]
    ) -> JsonResponse:
        found = await there().find(options.query())
        return answer(request, found)

    @api.get(
        "/v1/labels/sound",
        response_class=Response,
        responses={200: {"content": {"audio/wav": AUDIO}}, **not_found()},
        summary="The sound of a window",
    )
    async def _sound(
        uri: Annotated[str, Query(max_length=1_100)],  # escaped, it fits HAProxy's buffer
        start_s: Annotated[float, Query(allow_inf_nan=False)],
    ) -> Response:
        rate = context.current().bundle.feature.sample_rate
        return Response(await there().sound(uri, start_s, rate), media_type="audio/wav")

    @api.post(
        "/v1/labels/corrections",
        response_class=Response,
        responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}, **not_found()},
        summary="Turn corrected labels into a manifest for `audiocnn ingest`",
    )
    async def _corrections(corrections: schemas.Corrections) -> Response:
        rows = [(row.uri, row.start_s, row.label) for row in corrections.rows]
        name = {"content-disposition": 'attachment; filename="corrections.csv"'}
        return Response(await there().manifest(rows), headers=name, media_type="text/csv")
