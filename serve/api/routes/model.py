"""The description of the model and its health: `GET /v1/model`, `/healthz` and `/readyz`."""

from typing import Annotated

from fastapi import FastAPI, Query, Request

from serve.api import schemas
from serve.api.encoding import JsonResponse
from serve.api.routes.common import Context, answer, not_found


def add(api: FastAPI, context: Context) -> None:
    """Add the routes of the model's description and health."""

    @api.get(
        "/v1/model",
        response_model=schemas.Card,
        responses=not_found(),
        summary="Description of the current bundle, or of the second one",
    )
    async def _card(
        request: Request, options: Annotated[schemas.CardOptions, Query()]
    ) -> JsonResponse:
        other = None if context.beside is None else context.beside().bundle.fingerprint
        card = context.service(beside=options.beside).card()
        card |= {"labels": context.labels is not None, "beside": other}
        return answer(request, card)

    @api.get("/healthz", response_model=schemas.Health, summary="Whether this process is running")
    async def _healthz() -> dict[str, str]:
        return {"status": "ok", "bundle": context.current().bundle.fingerprint}

    @api.get("/readyz", response_model=schemas.Health, summary="Whether the model answers")
    async def _readyz() -> dict[str, str]:
        await context.current().check()
        return {"status": "ok", "bundle": context.current().bundle.fingerprint}
