"""A gateway by hand: FastAPI before, httpx behind; `uvicorn gateway_app:app`."""

# mypy: ignore-errors
# It imports what only the environment of the peer has.

import os
from contextlib import asynccontextmanager

import httpx
import orjson
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse

KEYS = {os.environ["PEER_KEY"]: "bench"}
UPSTREAM = os.environ["PEER_UPSTREAM"] + "/chat/completions"
HEADERS = {
    "authorization": "Bearer " + os.environ["PEER_PROVIDER_KEY"],
    "content-type": "application/json",
}
ledger = {}


@asynccontextmanager
async def lifespan(app):
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=512)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions")
async def chat(request: Request):
    owner = KEYS.get(request.headers.get("authorization", "").removeprefix("Bearer "))
    if owner is None:
        raise HTTPException(401, "wrong key")
    body = await request.body()
    asked = orjson.loads(body)
    client = app.state.client
    sent = client.build_request("POST", UPSTREAM, content=body, headers=HEADERS)
    answer = await client.send(sent, stream=bool(asked.get("stream")))
    kind = answer.headers.get("content-type")
    if not asked.get("stream"):
        used = orjson.loads(answer.content).get("usage", {})
        ledger[owner] = ledger.get(owner, 0) + used.get("total_tokens", 0)
        return Response(answer.content, answer.status_code, media_type=kind)

    async def relayed():
        try:
            async for piece in answer.aiter_raw():
                yield piece
        finally:
            await answer.aclose()

    return StreamingResponse(relayed(), answer.status_code, media_type=kind)
