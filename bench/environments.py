"""An environment for each server, made with pip when it is first needed and kept under `.bench/venvs/`."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import ROOT
from bench.registry import Server

_INSTALL_LIMIT_S: Final = 900
_VERSIONS: Final = """
import importlib.metadata, json, sys
found = {"python": sys.version.split()[0]}
for name in sys.argv[1:]:
    try: found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError: pass
print(json.dumps(found))
"""


class EnvironmentFailure(RuntimeError):
    """A server's environment could not be made; the message is what pip said last."""


@dataclass(frozen=True, slots=True)
class Environments:
    """Finds the interpreter for a server. `interpreters`: those known already, by a server's name; it grows."""

    folder: Path
    interpreters: dict[str, Path]

    def interpreter(self, server: Server) -> Path:
        """The Python to start `server` with; its environment is made if it is not there, or was made differently."""
        if server.name in self.interpreters:
            return self.interpreters[server.name]
        assert server.environment is not None, f"{server.name} has no environment and no interpreter was given"
        venv = self.folder / server.environment
        python, stamp = venv / "bin" / "python", venv / "bench-stamp"
        wanted = _fingerprint(server)
        if not stamp.exists() or stamp.read_text() != wanted:
            _run([sys.executable, "-m", "venv", "--clear", str(venv)])
            _run([str(python), "-m", "pip", "install", "--quiet", *server.requirements])
            stamp.write_text(wanted)
        self.interpreters[server.name] = python
        return python

    def versions(self, server: Server) -> dict[str, str]:
        """What is installed of `server.distributions`, and Python's version."""
        command = [str(self.interpreter(server)), "-c", _VERSIONS, *server.distributions]
        found: dict[str, str] = json.loads(subprocess.check_output(command, cwd=ROOT))
        return found


def _fingerprint(server: Server) -> str:
    """Changes when what pip is told to install does; not with our sources, which are served from the working tree."""
    files = [ROOT / "pyproject.toml", ROOT / "constraints.txt"] if "." in server.requirements else []
    files += [Path(text) for text in server.requirements if text.endswith(".txt") and Path(text).is_absolute()]
    digest = hashlib.sha256(" ".join(server.requirements).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=_INSTALL_LIMIT_S)
    except subprocess.CalledProcessError as error:
        said = [line for line in str(error.stderr).splitlines() if line.strip()] or ["nothing"]
        raise EnvironmentFailure(f"{' '.join(command[:4])} failed: {said[-1]}") from error
    except subprocess.TimeoutExpired as error:
        raise EnvironmentFailure(f"{' '.join(command[:4])} took over {_INSTALL_LIMIT_S} s") from error
