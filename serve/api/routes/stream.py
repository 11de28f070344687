"""Live sound: `WS /v1/stream`."""

from fastapi import FastAPI, WebSocket

from serve.api.gate import PROBLEM_KEY
from serve.api.routes.common import Context
from serve.api.stream import stream
from serve.problems import Problem


def add(api: FastAPI, context: Context) -> None:
    """Add `WS /v1/stream`."""

    @api.websocket("/v1/stream")
    async def _stream(socket: WebSocket) -> None:
        try:
            await stream(socket, context.current)
        except Problem as problem:
            socket.scope[PROBLEM_KEY] = problem.name
            await socket.send_denial_response(problem.response())
