"""The dashboard, generated sounds to try, the documentation, and a page for each problem."""

import asyncio

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from serve.api import docs_page, static
from serve.api.routes.common import AUDIO, Context, not_found
from serve.problems import KINDS, Problem


def add(api: FastAPI, context: Context) -> None:
    """Add the routes of the dashboard, samples, documentation and problems."""

    @api.get("/docs", include_in_schema=False)
    async def _docs() -> HTMLResponse:
        return HTMLResponse(
            docs_page.page(api.openapi()), headers={"content-security-policy": docs_page.POLICY}
        )

    @api.get(
        "/problems/{name}",
        response_class=PlainTextResponse,
        responses=not_found(),
        summary="Explanation of a problem",
    )
    async def _problem(name: str) -> str:
        if name not in KINDS:
            raise Problem("not-found", f"no problem {name!r}; the problems are {', '.join(KINDS)}")
        kind = KINDS[name]
        return f"{kind.status} {kind.title}\n\nWhat to do: {kind.mend}.\n"

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
            200: {"content": {"audio/flac": AUDIO}}, **not_found()
        },
        summary="A generated sound",
    )  # fmt: skip
    async def _sample(name: str) -> Response:
        sound = await asyncio.to_thread(static.sample, name)
        return Response(sound, media_type="audio/flac")
