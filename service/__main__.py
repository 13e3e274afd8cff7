"""`python -m service`: read the settings, listen, serve."""

import importlib
import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from service import logs
from service.control import Control
from service.cores import Cores
from service.readiness import Readiness
from service.settings import Settings, SettingsError, available_cpus, load_settings
from service.workers import Workers

logger = logging.getLogger("service")

_BACKLOG = 2048
# What `Server.shutdown` may take beside the drain: two farewells, first requests on new connections, a run that hangs.
_FAREWELL_LIMIT_S = 10


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve until told to stop; return the exit status: 0, 1 if it could not start, 2 if the settings are wrong."""
    try:
        settings = load_settings(arguments, environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    logs.configure(settings.log_format, settings.log_level)
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        logger.error("cannot listen on %s port %d: %s", settings.host, settings.port, error.strerror or error)
        return 1
    count = settings.num_workers
    readiness, control = Readiness(count), Control(count)
    cores = Cores(count, available_cpus(whole=True))
    if count == 1:
        return _serve(settings, listener, readiness, control, cores, loads_first=False)
    workers = Workers(
        count,
        lambda _, replaces: _serve(settings, listener, readiness, control, cores, loads_first=replaces),
        prepare=lambda: _import_all(settings),
        listener=listener,
        readiness=readiness,
        control=control,
        cores=cores,
        hang_timeout_s=settings.hang_timeout_s,
        stop_timeout_s=settings.drain_timeout_s + _FAREWELL_LIMIT_S,
    )
    return workers.run()


def _serve(
    settings: Settings,
    listener: socket.socket,
    readiness: Readiness,
    control: Control,
    cores: Cores,
    *,
    loads_first: bool,
) -> int:
    """Serve in this process."""
    from service.app import Service
    from service.backends import BackendError, choose_runtime
    from service.server import Server

    try:
        runtime = choose_runtime(
            settings.backend, settings.device, threads=settings.threads_per_worker, precision=settings.precision
        )
        lone_threads = settings.lone_threads if runtime.device == "cpu" else runtime.threads
        runtime = replace(runtime, cores=cores, lone_threads=lone_threads, spins=settings.threads_have_cores)
        service = Service(settings, runtime, readiness, control)
        Server(service, listener, drain_timeout_s=settings.drain_timeout_s, loads_first=loads_first).run()
    except (BackendError, SettingsError) as error:
        logger.error("cannot start: %s", error)
        return 1
    return 0


def _import_all(settings: Settings) -> None:
    """Import what `_serve` does, once for all workers: 1.6 s with torch, which one that replaces another saves."""
    from service.backends import import_runtimes

    for module in ("service.app", "service.server"):
        importlib.import_module(module)
    import_runtimes(settings.backend, settings.precision)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    host, port = listener.getsockname()[:2]
    logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    return listener


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
