"""Predictions for a recording: `POST /v1/predict`, and the tutorial's `POST /inference`."""

import base64
import binascii
from typing import Annotated

import orjson
from fastapi import FastAPI, Query, Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from serve.api import schemas
from serve.api.encoding import JsonResponse
from serve.api.routes.common import AUDIO, Context, answer, not_found
from serve.problems import Problem

_BODY = {
    "required": True,
    "content": {
        "application/octet-stream": AUDIO,
        "audio/*": AUDIO,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "string", "format": "binary"}},
                "required": ["file"],
            }
        },
    },
}


def add(api: FastAPI, context: Context) -> None:
    """Add `POST /v1/predict` and `POST /inference`."""

    @api.post(
        "/v1/predict",
        response_model=schemas.PredictAnswer,
        response_model_exclude_unset=True,
        responses=not_found(),
        openapi_extra={"requestBody": _BODY},
        summary="Predictions for a recording, the model's input, feature maps and evidence",
    )
    async def _predict(
        request: Request, options: Annotated[schemas.PredictOptions, Query()]
    ) -> JsonResponse:
        service = context.service(beside=options.beside)
        found = await service.predict(await _recording(request), options.to_request())
        context.metrics.windows(len(found["windows"]))
        return answer(request, found)

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
        summary="Predictions for clients of the tutorial that this project grew from",
    )
    async def _inference(request: Request) -> JsonResponse:
        found = await context.current().tutorial(_from_base64(await request.body()))
        return answer(request, found)


async def _recording(request: Request) -> bytes:
    """Return the bytes of the recording in a request. Raises Problem."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        return await request.body()
    try:
        async with request.form(max_files=1, max_fields=0) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile) or not file.filename:
                raise Problem(
                    "malformed", "a form needs one file: the field `file`, with a file name"
                )
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
        raise Problem("malformed", f"audio_data is not base64: {error}") from error
