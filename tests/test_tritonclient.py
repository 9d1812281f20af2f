"""The official KServe V2 client, unchanged: every method of its HTTP client that applies, both the
threaded one and that of asyncio. Those that do not apply raise its own error, with our reason.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import paceline
from paceline.app import key_file
from paceline.config import Server as ServerSettings
from paceline.processes.state_dir import StateDir
from paceline.serve import digits
from sdks import triton, triton_aio
from servers import Server

ROWS = np.array([digits.SAMPLE_ROW, digits.SAMPLE_ROW[::-1]], np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("triton") / "state") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4) as client:
        yield client


@pytest.fixture(scope="module")
def expected(server: Server) -> NDArray[Any]:
    body = ROWS.tolist()
    answer = server.ask("POST", "/predict/digits", body)
    return np.array(answer.json["outputs"]["probabilities"], np.float32)


def asked(*, binary: bool = True, rows: NDArray[Any] = ROWS) -> list[Any]:
    tensor = triton.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return [tensor]


def wanted(*, binary: bool = True) -> list[Any]:
    return [triton.InferRequestedOutput("probabilities", binary_data=binary)]


# --- Inference ------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("outputs", ["binary", "json", "none"])
def test_infer(client: Any, expected: NDArray[Any], binary_in: bool, outputs: str) -> None:
    chosen = None if outputs == "none" else wanted(binary=outputs == "binary")
    answer = client.infer("digits", asked(binary=binary_in), outputs=chosen, request_id="mine")
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected, rtol=1e-5)
    said = answer.get_response()
    assert said["id"] == "mine"
    assert said["model_name"] == "digits"
    assert said["model_version"] == "1"
    if outputs == "none":
        assert answer.as_numpy("label").tolist() == expected.argmax(1).tolist()


@pytest.mark.parametrize("request_by", [None, "gzip", "deflate"])
@pytest.mark.parametrize("answer_by", [None, "gzip", "deflate"])
def test_infer_compressed(
    client: Any, expected: NDArray[Any], request_by: str | None, answer_by: str | None
) -> None:
    many = np.repeat(ROWS, 400, axis=0)
    answer = client.infer(
        "digits",
        asked(rows=many),
        outputs=wanted(),
        request_compression_algorithm=request_by,
        response_compression_algorithm=answer_by,
    )
    found = answer.as_numpy("probabilities")
    assert found.shape == (800, 10)
    np.testing.assert_allclose(found[:1], expected[:1], rtol=1e-5)
    np.testing.assert_allclose(found[-1:], expected[1:], rtol=1e-5)


def test_infer_of_a_version(client: Any) -> None:
    assert client.infer("digits", asked(), model_version="1").as_numpy("label") is not None
    with pytest.raises(triton.InferenceServerException, match="no such version"):
        client.infer("digits", asked(), model_version="7")


@pytest.mark.parametrize("priority", [0, 1, 4])
def test_priority_and_timeout_count(server: Server, client: Any, priority: int) -> None:
    name = {0: "normal", 1: "critical", 4: "low"}[priority]

    def counted() -> float:
        metrics = server.ask("GET", "/metrics").body.decode()
        label = f'paceline_requests_total{{model="digits",priority="{name}",status="200"}}'
        found = [line.split()[-1] for line in metrics.splitlines() if line.startswith(label)]
        return float(found[0]) if found else 0.0

    before = counted()
    client.infer("digits", asked(), priority=priority, timeout=5_000_000)
    assert counted() == before + 1
    with pytest.raises(triton.InferenceServerException, match="needs about"):
        client.infer("digits", asked(rows=np.repeat(ROWS, 500, axis=0)), timeout=1)


def test_async_infer(client: Any, expected: NDArray[Any]) -> None:
    begun = [client.async_infer("digits", asked(), outputs=wanted()) for _ in range(8)]
    for each in begun:
        np.testing.assert_allclose(each.get_result().as_numpy("probabilities"), expected, rtol=1e-5)


def test_bodies_made_and_read_apart(server: Server, client: Any, expected: NDArray[Any]) -> None:
    body, length = client.generate_request_body(asked(), outputs=wanted())
    headers = {"Inference-Header-Content-Length": str(length)}
    answer = server.ask("POST", "/v2/models/digits/infer", raw=body, headers=headers)
    at = int(answer.headers["inference-header-content-length"])
    read = triton.InferenceServerClient.parse_response_body(answer.body, header_length=at)
    np.testing.assert_allclose(read.as_numpy("probabilities"), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (np.zeros((1, 63), np.float32), "expected shape"),
        (np.zeros((0, 64), np.float32), "holds no values"),
    ],
)
def test_errors_are_told_in_our_words(client: Any, rows: NDArray[Any], says: str) -> None:
    with pytest.raises(triton.InferenceServerException, match=says) as raised:
        client.infer("digits", asked(rows=rows))
    assert raised.value.status() == "400"


def test_a_model_that_is_not_there(client: Any) -> None:
    asks: list[Callable[[], object]] = [
        lambda: client.infer("nothing", asked()),
        lambda: client.get_model_metadata("nothing"),
        lambda: client.get_model_config("nothing"),
        lambda: client.get_inference_statistics("nothing"),
        lambda: client.load_model("nothing"),
    ]
    for ask in asks:
        with pytest.raises(
            triton.InferenceServerException, match="no model has this name"
        ) as raised:
            ask()
        assert raised.value.status() == "404"
    assert not client.is_model_ready("nothing")


# --- What is known of server and models -----------------------------------------------------------


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("digits", "2")
    server = client.get_server_metadata()
    assert server["name"] == "paceline"
    assert server["version"] == paceline.__version__
    assert "binary_tensor_data" in server["extensions"]
    assert client.get_model_metadata("digits", "1") == {
        "name": "digits",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
        ],
    }
    config = client.get_model_config("digits")
    assert config["max_batch_size"] > 1
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [64]}]
    assert config["output"][0] == {"name": "label", "data_type": "TYPE_INT64", "dims": []}


def test_statistics(client: Any) -> None:
    def stats() -> dict[str, Any]:
        (found,) = client.get_inference_statistics("digits", "1")["model_stats"]
        return dict(found)

    before = stats()
    client.infer("digits", asked())
    with pytest.raises(triton.InferenceServerException):
        client.infer("digits", asked(rows=np.zeros((1, 63), np.float32)))
    after = stats()
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["last_inference"] > before["last_inference"]
    for name, more in {
        "success": 1,
        "fail": 1,
        "queue": 1,
        "compute_input": 1,
        "compute_infer": 1,
        "compute_output": 1,
    }.items():
        then, now = before["inference_stats"][name], after["inference_stats"][name]
        assert now["count"] - then["count"] == more, name
        assert now["ns"] > then["ns"], name
    for name in ("cache_hit", "cache_miss"):
        assert after["inference_stats"][name] == {"count": 0, "ns": 0}
    assert client.get_inference_statistics()["model_stats"][0]["name"] == "digits"


def test_repository(server: Server, client: Any) -> None:
    entry = {"name": "digits", "version": "1", "state": "READY", "reason": ""}
    assert client.get_model_repository_index() == [entry]
    client.unload_model("digits")
    assert not client.is_model_ready("digits")
    (gone,) = client.get_model_repository_index()
    assert (gone["state"], gone["reason"]) == ("UNAVAILABLE", "unloaded")
    with pytest.raises(triton.InferenceServerException, match="switched off") as raised:
        client.infer("digits", asked())
    assert raised.value.status() == "503"
    client.load_model("digits")
    assert client.is_model_ready("digits")
    assert client.infer("digits", asked()).as_numpy("label") is not None
    why = server.ask("GET", "/api/why?knob=digits.enabled").body.decode()
    assert "asked to load it" in why


def test_a_model_is_not_loaded_from_what_a_request_brings(client: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match="not from what a request brings"):
        client.load_model("digits", config=json.dumps({"backend": "python"}))
    with pytest.raises(triton.InferenceServerException, match="not from what a request brings"):
        client.load_model("digits", config="{}", files={"file:1/model.onnx": b"x"})


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.register_system_shared_memory("a", "/a", 64),
        lambda client: client.unregister_system_shared_memory("a"),
        lambda client: client.get_cuda_shared_memory_status(),
        lambda client: client.register_cuda_shared_memory("a", b"x", 0, 64),
        lambda client: client.unregister_cuda_shared_memory("a"),
        lambda client: client.get_trace_settings(),
        lambda client: client.get_trace_settings("digits"),
        lambda client: client.update_trace_settings("digits", {"trace_level": ["OFF"]}),
        lambda client: client.get_log_settings(),
        lambda client: client.update_log_settings({"log_info": True}),
    ],
)
def test_what_is_not_offered_says_so(client: Any, ask: Callable[[Any], Any]) -> None:
    with pytest.raises(
        triton.InferenceServerException, match="cannot be had from this server"
    ) as raised:
        ask(client)
    assert raised.value.status() == "501"


def test_a_key_that_may_infer_may_not_unload(tmp_path: Path) -> None:
    state = tmp_path / "state"
    StateDir.hold(state).release()
    _, secret = key_file(ServerSettings(state=str(state))).create("app", "client", 0.0)
    with Server(state, "--require-keys") as server:
        headers = {"authorization": f"Bearer {secret}"}
        with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            assert client.infer("digits", asked(), headers=headers).as_numpy("label") is not None
            assert client.get_model_repository_index(headers=headers)[0]["state"] == "READY"
            with pytest.raises(triton.InferenceServerException, match="role is client") as raised:
                client.unload_model("digits", headers=headers)
            assert raised.value.status() == "403"
            with pytest.raises(triton.InferenceServerException) as raised:
                client.infer("digits", asked())
            assert raised.value.status() == "401"


# --- The client of asyncio ------------------------------------------------------------------------


def with_aio(server: Server, story: Callable[[Any], Awaitable[None]]) -> None:
    async def main() -> None:
        client = triton_aio.InferenceServerClient(f"127.0.0.1:{server.port}")
        try:
            await story(client)
        finally:
            await client.close()

    asyncio.run(main())


def test_aio_infers(server: Server, expected: NDArray[Any]) -> None:
    async def story(client: Any) -> None:
        answers = await asyncio.gather(
            *(
                client.infer("digits", asked(binary=each % 2 == 0), outputs=wanted(), priority=2)
                for each in range(16)
            )
        )
        for answer in answers:
            np.testing.assert_allclose(answer.as_numpy("probabilities"), expected, rtol=1e-5)
        with pytest.raises(triton.InferenceServerException, match="expected shape"):
            await client.infer("digits", asked(rows=np.zeros((1, 63), np.float32)))
        packed = await client.infer(
            "digits",
            asked(rows=np.repeat(ROWS, 400, axis=0)),
            request_compression_algorithm="gzip",
            response_compression_algorithm="gzip",
        )
        assert packed.as_numpy("label").shape == (800,)

    with_aio(server, story)


def test_aio_asks_about_server_and_models(server: Server) -> None:
    async def story(client: Any) -> None:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("digits")
        assert (await client.get_server_metadata())["name"] == "paceline"
        assert (await client.get_model_metadata("digits"))["versions"] == ["1"]
        assert (await client.get_model_config("digits"))["name"] == "digits"
        assert (await client.get_model_repository_index())[0]["state"] == "READY"
        assert (await client.get_inference_statistics("digits"))["model_stats"]
        await client.unload_model("digits")
        assert not await client.is_model_ready("digits")
        await client.load_model("digits")
        assert await client.is_model_ready("digits")
        for unsupported in (
            client.get_trace_settings,
            client.get_log_settings,
            client.get_system_shared_memory_status,
            client.get_cuda_shared_memory_status,
        ):
            with pytest.raises(triton.InferenceServerException, match="cannot be had"):
                await unsupported()

    with_aio(server, story)
