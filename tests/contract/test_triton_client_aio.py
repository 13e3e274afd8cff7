"""`tritonclient.http.aio`, unmodified, against the real service. It undoes the compression of infer answers alone."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient import http as triton
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException

Client = aio.InferenceServerClient


def run(address: str, test: Callable[[Client], Awaitable[None]]) -> None:
    async def connected() -> None:
        async with aio.InferenceServerClient(address) as client:
            await test(client)

    asyncio.run(connected())


def tensor(values: NDArray[Any]) -> Any:
    return triton.InferInput("sequences", values.shape, "FP32").set_data_from_numpy(values)


def test_everything_but_inference_is_answered(address: str) -> None:
    async def test(client: Client) -> None:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("tiny", "1")
        assert not await client.is_model_ready("nobody")
        assert (await client.get_server_metadata())["name"] == "lstm-serve"
        assert (await client.get_model_metadata("tiny"))["versions"] == ["1"]
        assert (await client.get_model_config("tiny", "1"))["max_batch_size"] == 0
        assert len((await client.get_inference_statistics())["model_stats"]) == 4
        assert (await client.get_inference_statistics("tiny"))["model_stats"][0]["name"] == "tiny"
        assert len(await client.get_model_repository_index()) == 4
        await client.unload_model("both")
        assert not await client.is_model_ready("both")
        await client.load_model("both")
        assert await client.is_model_ready("both")
        assert (await client.get_trace_settings("tiny"))["trace_level"] == ["OFF"]
        assert (await client.update_trace_settings(settings={"trace_level": ["OFF"]}))["trace_level"] == ["OFF"]
        assert await client.update_log_settings({"log_info": True}) == await client.get_log_settings()

    run(address, test)


def test_what_is_not_to_be_had_is_refused_in_words(address: str) -> None:
    async def test(client: Client) -> None:
        for status, call in (
            ("404", client.get_model_metadata("nobody")),
            ("404", client.get_model_config("tiny", "9")),
            ("404", client.load_model("nobody")),
            ("501", client.update_trace_settings("tiny", {"trace_level": ["TENSORS"]})),
            ("501", client.get_system_shared_memory_status()),
            ("501", client.get_cuda_shared_memory_status("region")),
            ("501", client.register_system_shared_memory("region", "/key", 64)),
            ("501", client.register_cuda_shared_memory("region", b"handle", 0, 64)),
            ("501", client.unregister_system_shared_memory("region")),
            ("501", client.unregister_cuda_shared_memory()),
        ):
            with pytest.raises(InferenceServerException) as raised:
                await call
            assert raised.value.status() == status
            assert raised.value.message()

    run(address, test)


@pytest.mark.parametrize("received", [None, "gzip", "deflate"])
@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
def test_many_requests_at_once_each_get_their_own_answer(address: str, sent: str | None, received: str | None) -> None:
    rng = np.random.default_rng(2)

    async def test(client: Client) -> None:
        every = [rng.normal(size=(2, steps, 3)).astype(np.float32) for steps in (1, 40, 200)]
        wanted = [triton.InferRequestedOutput(name) for name in ("label", "hidden_states", "last_hidden")]
        compression = {"request_compression_algorithm": sent, "response_compression_algorithm": received}
        answers = await asyncio.gather(
            *(client.infer("tiny", [tensor(one)], outputs=wanted, request_id="x", **compression) for one in every)
        )
        for one, answer in zip(every, answers, strict=True):
            hidden_states = answer.as_numpy("hidden_states")
            assert hidden_states.shape == (2, one.shape[1], 4)
            np.testing.assert_array_equal(hidden_states[:, -1], answer.as_numpy("last_hidden"))
            assert answer.get_response()["id"] == "x"

    run(address, test)
