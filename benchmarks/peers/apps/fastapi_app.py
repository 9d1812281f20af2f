"""FastAPI by hand: no batches, onnxruntime on the event loop; `uvicorn fastapi_app:app`."""

# mypy: ignore-errors
# It imports what only the environment of the peer has.

import orjson
from fastapi import FastAPI, Response
from onnx_rows import OnnxRows
from pydantic import BaseModel


class Numbers(BaseModel):
    x: list[float]


class Text(BaseModel):
    ids: list[int]
    mask: list[int]


app = FastAPI()
model = OnnxRows()
Row = Numbers if model.inputs[0][0] == "x" else Text


@app.post("/predict")
async def predict(row: Row):
    answer = model.run_rows([model.arrays(row.__dict__)])[0]
    return Response(orjson.dumps({"y": answer.tolist()}), media_type="application/json")
