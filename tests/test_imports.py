"""Imports point one way, and each heavy library lives where style says. Read from the source, nothing is run."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each module of the service may import from those before it, never from those after it.
SERVICE_ORDER = [
    "errors", "settings", "shapes", "timing", "tensors", "statistics", "shared_values", "families", "metrics", "cores",
    "backends", "policy", "costs", "backends.onnx_guard", "backends.onnx", "backends.torchscript", "backends.fastest",
    "backends.all_cores", "busy_poll", "parts", "batcher", "trace", "engine", "control", "versions", "registry", "keys",
    "readiness", "logs", "compression", "http", "binary_tensors", "open_inference", "openapi_v2", "openapi", "api_v1",
    "api_v2_tensors", "api_v2", "api_v2_models", "api_v2_control", "api_page", "edge", "app", "short_way", "protocol",
    "acceptor", "server", "workers", "__main__",
]  # fmt: skip
CHOOSERS = {"backends"}  # import what stands after them, inside a function, when it has been chosen

# Library → the files of `service/` that may import it.
HOMES = {
    "torch": {"backends/torchscript.py"},
    "onnxruntime": {"backends/onnx.py"},
    "fastapi": {"api_page.py", "api_v1.py", "api_v2_control.py", "api_v2_models.py", "app.py"},
    "starlette": {"api_v2_control.py", "app.py"},
    "prometheus_client": {"families.py", "metrics.py", "shared_values.py"},
    "simdjson": {"open_inference.py", "tensors.py"},
    "orjson": {"tensors.py", "api_v1.py"},
    "uvicorn": {"protocol.py", "server.py"},
    "pydantic": {"api_v1.py", "settings.py"},
}


def imported(path: Path) -> set[str]:
    """The dotted names that a file imports; for `from a import b`, both `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(str(node.module))
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def sources(folder: str) -> list[Path]:
    return [
        path
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name != "__init__.py" or path.parent.parent != ROOT
    ]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "service").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def test_every_module_of_the_service_has_its_place() -> None:
    assert sorted(module_of(path) for path in sources("service")) == sorted(SERVICE_ORDER)


@pytest.mark.parametrize("path", sources("service"), ids=module_of)
def test_service_imports_point_one_way(path: Path) -> None:
    place = SERVICE_ORDER.index(module_of(path))
    for name in imported(path):
        target = name.removeprefix("service.")
        if name.startswith("service.") and target in SERVICE_ORDER and module_of(path) not in CHOOSERS:
            assert SERVICE_ORDER.index(target) < place, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", sources("service"), ids=module_of)
def test_the_service_takes_only_the_bundle_from_the_model_half(path: Path) -> None:
    assert {name for name in imported(path) if name.split(".")[0] == "model"} <= {
        name for name in imported(path) if name.startswith("model.bundle")
    }


@pytest.mark.parametrize("path", sources("model"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_model_half_never_imports_the_service(path: Path) -> None:
    assert not {name for name in imported(path) if name.split(".")[0] == "service"}


@pytest.mark.parametrize("path", sources("model/bundle"), ids=lambda path: path.name)
def test_the_bundle_needs_no_runtime(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"torch", "onnx", "onnxruntime", "numpy"}


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_where_it_lives_and_nowhere_else(library: str) -> None:
    users = {
        str(path.relative_to(ROOT / "service"))
        for path in sources("service")
        if library in {name.split(".")[0] for name in imported(path)}
    }
    assert users <= HOMES[library]
