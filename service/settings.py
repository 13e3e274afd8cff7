"""All settings: environment variables `LSTM_*`, each also a flag of `python -m service`, validated once at start.

The descriptions are what `--help` and the README's table say.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX = "LSTM_"
_VERSION_POLICY = re.compile(r"all|latest(:[1-9][0-9]{0,3})?|[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*")
_CGROUP = Path("/sys/fs/cgroup")
# Of 16 cores, 4 computed a run up to 6 times as fast as one; 8 at best 1.4 times faster still, for 1.5 times the CPU
# time (ONNX Runtime, layers of 32 to 512 units).
_MOST_LONE_THREADS = 4
_NVIDIA_DEVICE = Path("/dev/nvidiactl")  # the driver makes it where there is a GPU, a container only has it if given

Positive = Annotated[int, Field(ge=1)]


class SettingsError(ValueError):
    """A setting that is unknown or out of range; the message names it."""


class Settings(BaseSettings):
    """What an operator can choose. Durations carry their unit in the name."""

    model_config = SettingsConfigDict(
        frozen=True,
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    repository: Path = Field(Path("bundles"), description="folder of bundles, NAME/VERSION/")
    default_model: str | None = Field(None, description="model of /v1/predict; the first by name if not set")
    version_policy: str = Field("latest:1", description="versions to serve: all, latest:N, or a list such as 1,3")
    reload_interval_s: float = Field(
        1,
        ge=0,
        le=86_400,
        description="how often the repository is looked at for changes; 0: only on SIGHUP and when asked to load",
    )
    backend: Literal["auto", "onnx", "torchscript"] = Field("auto", description="runtime: auto, onnx or torchscript")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where it computes: auto, cpu or cuda")
    precision: Literal["float32", "int8"] = Field(
        "float32", description="float32 or int8: ONNX on the CPU, float32 for a bundle without it"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    workers: Positive | None = Field(
        None,
        description="processes that share the port; default: the CPUs that cgroup and affinity give, 1 beside a GPU",
    )
    threads: Positive | None = Field(
        None,
        description="threads of one run; default: the CPUs over the workers, for ONNX up to 4 while nothing else runs",
    )
    max_batch_size: Positive = Field(64, description="sequences in one model run, at most")
    max_batch_steps: Positive = Field(65_536, description="sequences x longest in one model run, at most")
    max_queue_delay_ms: float = Field(
        0,
        ge=0,
        le=60_000,
        description="how long the oldest request may wait for a fuller batch while the model idles",
    )
    max_queue_size: Positive = Field(1024, description="sequences waiting, at most; then 429")
    max_queue_steps: Positive = Field(1_048_576, description="time steps waiting, at most; then 429")
    request_timeout_ms: float = Field(
        30_000, gt=0, le=86_400_000, description="a request's time once it is read; then 504"
    )
    max_body_bytes: Positive = Field(16 * 2**20, description="request body; then 413")
    max_sequence_length: Positive = Field(10_000, description="time steps of one sequence; then 413")
    max_trace_values: Positive = Field(4_000_000, description="numbers in one answer's traces; then 413")
    api_keys_file: Path | None = Field(
        None, description="file of bearer keys, one a line; asked for but for health and the page's own files"
    )
    hang_timeout_s: float = Field(
        60,
        gt=0,
        le=86_400,
        description="a model run, or a worker's silence, that lasts so long hangs: it is replaced if there are others",
    )
    drain_timeout_s: float = Field(30, ge=0, le=3600, description="time for requests in flight after SIGTERM")
    log_format: Literal["text", "json"] = Field("text", description="one line, or one JSON object, per record")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug also logs every request that succeeded"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read what is handed over, and before it the flags; never the process's environment behind our back."""
        return (init_settings,)

    @field_validator("version_policy")
    @classmethod
    def _policy_is_known(cls, policy: str) -> str:
        if not _VERSION_POLICY.fullmatch(policy):
            raise ValueError("must be all, latest:N, or a list of versions such as 1,3")
        return policy

    @model_validator(mode="after")
    def _each_fits_the_next(self) -> Self:
        for small, large in (
            ("max_sequence_length", "max_batch_steps"),
            ("max_batch_steps", "max_queue_steps"),
            ("max_batch_size", "max_queue_size"),
            ("max_queue_delay_ms", "request_timeout_ms"),
        ):
            if getattr(self, small) > getattr(self, large):
                raise ValueError(f"{small}={getattr(self, small)} is over {large}={getattr(self, large)}")
        return self

    @property
    def num_workers(self) -> int:
        """Processes to serve with: `workers`, or one a CPU; on a GPU they would get in each other's way."""
        may_choose_gpu = self.device == "auto" and self.precision == "float32" and _NVIDIA_DEVICE.exists()
        may_use_gpu = self.device == "cuda" or may_choose_gpu
        return self.workers or (1 if may_use_gpu else available_cpus())

    @property
    def threads_per_worker(self) -> int:
        """Intra-op threads of one model run: `threads`, or this process's CPUs shared out over the workers."""
        return self.threads or max(1, available_cpus() // self.num_workers)

    @property
    def lone_threads(self) -> int:
        """Intra-op threads of a model run while nothing else runs: as many as ever if `threads` says how many."""
        return self.threads or max(self.threads_per_worker, min(available_cpus(whole=True), _MOST_LONE_THREADS))

    @property
    def threads_have_cores(self) -> bool:
        """Whether all threads of runs in all workers find a CPU each."""
        return self.num_workers * self.threads_per_worker <= available_cpus()


def load_settings(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Read and validate all settings; flags win over the environment. Raises `SettingsError` with one line a fault."""
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    given = {name: value for name, value in environ.items() if name.upper().startswith(PREFIX)}
    if unknown := sorted(given.keys() - known.keys()):
        raise SettingsError(f"{', '.join(unknown)}: no such setting; there are {', '.join(sorted(known))}")
    values: dict[str, Any] = {known[name]: value for name, value in given.items()}
    try:
        return Settings(_cli_parse_args=list(arguments), **values)  # type: ignore[call-arg]  # pydantic-settings' own
    except ValidationError as error:
        faults = [_line(fault["loc"], fault["msg"], fault["input"]) for fault in error.errors()]
        raise SettingsError("\n".join(faults)) from None


def _line(location: tuple[int | str, ...], message: str, got: object) -> str:
    if not location:
        return message.removeprefix("Value error, ")
    name = str(location[0])
    return f"{PREFIX}{name.upper()} (--{name.replace('_', '-')}): {message.removeprefix('Value error, ')}, got {got!r}"


def available_cpus(cgroup: Path = _CGROUP, *, whole: bool = False) -> int:
    """CPUs that this process may use: its affinity, capped by the quota of `cgroup`, version 2 or 1 (cgroups(7)).

    A container given `--cpus 1.5` on a 64-core host gets 2, of which one is `whole`. The host's core count plays no
    part.
    """
    affinity = len(os.sched_getaffinity(0))
    quota = _cpu_quota(cgroup)
    return affinity if quota is None else max(1, min(affinity, int(quota) if whole else math.ceil(quota)))


def _cpu_quota(cgroup: Path) -> float | None:
    """CPUs' worth of time that the cgroup mounted at `cgroup` may use; None if that is not limited."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if quota == "max" or int(quota) < 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return None
