"""A FastAPI application with web workers that share one host, so that each model is loaded once for all of them.

    pip install fastapi uvicorn
    uvicorn hostd.examples.fastapi_app:app --workers 4
    curl 'http://127.0.0.1:8000/greet?name=Ada'

The first worker that comes starts the host, the others join it, and it ends with the last of them, however that ends.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

import hostd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MODEL = Path(__file__).parent / "greeter"

HTTP_STATUS = {
    hostd.Status.INVALID_ARGUMENT: 400,
    hostd.Status.NOT_FOUND: 404,
    hostd.Status.RESOURCE_EXHAUSTED: 429,
    hostd.Status.UNAVAILABLE: 503,
    hostd.Status.DEADLINE_EXCEEDED: 504,
}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Have the model ready before the first request, and give the host back after the last."""
    async with hostd.Host("fastapi-app", shared=True) as host:
        client = host.async_client(timeout_s=10)  # it is closed with the host
        # The first one loads it; for the others it is loaded already.
        app.state.greeter = await client.load_model("greeter", MODEL)
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/greet")
async def greet(request: Request, name: str) -> dict[str, Any]:
    """Have the model greet somebody; the loop serves other requests meanwhile."""
    return {"greeting": await request.app.state.greeter.greet(name)}


@app.exception_handler(hostd.HostError)
async def refuse(_request: Request, error: hostd.HostError) -> JSONResponse:
    """Answer with the status that HTTP has for it; messages name paths and processes, and belong into a log."""
    return JSONResponse({"error": error.status.name}, HTTP_STATUS.get(error.status, 500))
