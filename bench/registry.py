"""Which servers there are: how each is started, in which environment, and which protocols it speaks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import wires
from bench.wires import Wire
from bench.workload import Encoding

HERE: Final = Path(__file__).parent / "servers"


@dataclass(frozen=True, slots=True)
class Server:
    """A server. `{port}` in `arguments` and `environ`, and `{repository}` in `arguments`, are filled in at the start.

    `environment` names the folder of its interpreter, `requirements` what pip puts there; without an environment, it
    is the interpreter given by `--python`. `distributions` are those whose versions are worth a note. `scenarios`: the
    only ones that it is measured in, if there are any.
    """

    name: str
    title: str
    arguments: tuple[str, ...]
    wires: Mapping[Encoding, Wire]
    distributions: tuple[str, ...]
    environment: str | None = None
    requirements: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    scenarios: tuple[str, ...] = ()


_OURS: Final = ("-m", "service", "--repository", "{repository}", "--port", "{port}")
_OURS_WIRES: Final[Mapping[Encoding, Wire]] = {"json": wires.SIMPLE, "binary": wires.V2_BINARY}
_PREDICT: Final[Mapping[Encoding, Wire]] = {"json": wires.SIMPLE_AT_PREDICT}
_UVICORN: Final = ("-m", "uvicorn", "--factory", "--port", "{port}", "--log-level", "warning", "--no-access-log")
_FASTAPI: Final = ("-r", str(HERE / "fastapi.txt"))

SERVERS: Final = {
    server.name: server
    for server in (
        Server(
            "ours",
            "lstm-serve",
            _OURS,
            _OURS_WIRES,
            ("lstm-serve", "onnxruntime", "torch", "uvicorn", "numpy"),
        ),
        Server(
            "ours-onnx",
            "lstm-serve without torch",
            _OURS,
            _OURS_WIRES,
            ("lstm-serve", "onnxruntime", "uvicorn", "numpy"),
            environment="ours",
            requirements=("-c", "constraints.txt", "."),
            scenarios=("S2", "S3", "S4b"),
        ),
        Server(
            "fastapi",
            "FastAPI, def, 1 worker",
            (*_UVICORN, "bench.servers.plain_fastapi:create_def"),
            _PREDICT,
            ("fastapi", "uvicorn", "pydantic", "onnxruntime"),
            environment="fastapi",
            requirements=_FASTAPI,
        ),
        Server(
            "fastapi-async",
            "FastAPI, async, 2 workers",
            (*_UVICORN, "--workers", "2", "bench.servers.plain_fastapi:create_async"),
            _PREDICT,
            ("fastapi", "uvicorn", "pydantic", "onnxruntime"),
            environment="fastapi",
            requirements=_FASTAPI,
        ),
        Server(
            "mosec",
            "mosec",
            ("-m", "bench.servers.mosec_server"),
            {**_PREDICT, "binary": wires.RAW},
            ("mosec", "onnxruntime", "orjson", "numpy"),
            environment="mosec",
            requirements=("-r", str(HERE / "mosec.txt")),
            environ={"MOSEC_ADDRESS": "127.0.0.1", "MOSEC_PORT": "{port}", "MOSEC_LOG_LEVEL": "warning"},
        ),
        Server(
            "triton",
            "Triton (pytriton)",
            ("-m", "bench.servers.triton_server"),
            {"json": wires.V2, "binary": wires.V2_BINARY},
            ("nvidia-pytriton", "onnxruntime", "numpy"),
            environment="triton",
            requirements=("-r", str(HERE / "triton.txt")),
        ),
        Server(
            "litserve",
            "LitServe",
            ("-m", "bench.servers.litserve_server"),
            _PREDICT,
            ("litserve", "fastapi", "uvicorn", "onnxruntime"),
            environment="litserve",
            requirements=("-r", str(HERE / "litserve.txt")),
        ),
    )
}
