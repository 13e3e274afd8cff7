"""Several training processes from one command: torchrun's launcher, and the process group that DDP averages over."""

import logging
import os
import signal
import uuid
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from model.bundle import BundleError
from model.parity import ExportError
from model.train import TrainingError

LOOPBACK = "127.0.0.1"


def launch(run: Callable[[int], None], *, processes: int, device: str) -> None:
    """Call `run(rank)` in `processes` processes on this machine, each a member of one group, and wait for them.

    `run` is pickled. The processes find one another on a free port of the loopback address. Raises the error of
    one that fails, `KeyboardInterrupt` on SIGINT; no process is left then.
    """
    if device == "cuda" and processes > torch.cuda.device_count():
        raise TrainingError(f"data-parallel {processes}: there are {torch.cuda.device_count()} GPUs, one a process")
    for logger in ("agent.server.api", "multiprocessing.api"):  # which announce an interrupt on standard error
        logging.getLogger(f"torch.distributed.elastic.{logger}").setLevel(logging.ERROR)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=f"{LOOPBACK}:0",
        local_addr=LOOPBACK,
        max_restarts=0,
    )
    try:
        errors = elastic_launch(config, _run_in_group)(run, device)
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise SystemExit(128 + error.sigval) from error
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == -signal.SIGINT:  # Ctrl-C reached it before the launcher
            raise KeyboardInterrupt from error
        raise TrainingError(f"training process {rank} failed; its error is above") from error
    for refusal in errors.values():
        if refusal is not None:
            raise refusal


def _run_in_group(run: Callable[[int], None], device: str) -> Exception | None:
    """Be one of the processes; return an error that needs no stack trace, for the launching process to raise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end at once and in silence: the launching process says why
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # its default resolves the host's name, which may not resolve
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        run(rank)
    except (TrainingError, ExportError, BundleError, OSError) as error:
        return error  # raised in all processes at once, or after the last step
    finally:
        dist.destroy_process_group()
    return None
