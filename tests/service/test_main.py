"""`python -m service` as a process: start, stop, several workers."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
from factories import make_bundle, ragged
from processes import ONNX_ALONE, running_service

PREDICT = "/v1/models/tiny/predict"


def run_to_the_end(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LSTM_")}
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env=clean | (environ or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Load:
    """Clients that keep their connections and post, one request after another, until the service takes no more."""

    def __init__(self, url: str, clients: int) -> None:
        self.answers = 0
        self.refused = 0
        self.failures: list[str] = []
        self._url = url
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        body = json.dumps({"sequences": ragged(np.random.default_rng(0), (5, 3))})
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                try:
                    response = client.post(self._url + PREDICT, content=body)
                except httpx.ConnectError:  # it listens no more: this request was never accepted
                    with self._lock:
                        self.refused += 1
                    return
                except httpx.TransportError as error:
                    with self._lock:
                        self.failures.append(repr(error))
                    continue
                with self._lock:
                    self.answers += response.status_code == 200
                    if response.status_code != 200:
                        self.failures.append(response.text)

    def wait_for(self, answers: int) -> None:
        """Wait until so many answers have come."""
        deadline = time.monotonic() + 60
        while self.answers < answers:
            assert time.monotonic() < deadline, self.failures
            time.sleep(0.02)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def children(process_id: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]


def counted(url: str) -> int:
    """Successful V1 answers, as one scrape tells them."""
    text = httpx.get(url + "/metrics").text
    return sum(int(float(n)) for n in re.findall(r'lstm_requests_total\{api="v1",code="200".*?\} (\S+)', text))


def test_sigterm_under_load_loses_no_accepted_request_and_ends_with_status_0(repository: Path) -> None:
    with running_service(repository) as service:
        service.wait_until("/health/ready", 200)
        load = Load(service.url, clients=8)
        load.wait_for(50)
        status = service.terminate()
        load.end()
    assert status == 0
    assert load.failures == []
    assert load.refused == 8


def test_it_is_not_ready_before_it_stops_answering(repository: Path) -> None:
    with (
        running_service(repository, ONNX_ALONE, "--workers", "1") as service,
        httpx.Client(base_url=service.url) as client,
    ):
        service.wait_until("/health/ready", 200)
        service.process.send_signal(signal.SIGTERM)
        service.wait_until("/health/ready", 503)
        answer = client.post(PREDICT, json={"sequences": ragged(np.random.default_rng(0), (4,))})
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"


def test_two_workers_answer_as_one_service(repository: Path) -> None:
    with running_service(repository, ONNX_ALONE, "--workers", "2") as service:
        service.wait_until("/health/ready", 200)
        assert len(children(service.process.pid)) == 2
        load = Load(service.url, clients=8)
        load.wait_for(100)
        load.end()
        assert load.failures == []
        deadline = time.monotonic() + 30
        while counted(service.url) < load.answers:  # the other worker books a little later
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert counted(service.url) == load.answers
        assert 'lstm_model_info{backend="onnx",device="cpu",model="tiny",version="1"} 1.0' in (
            httpx.get(service.url + "/metrics").text
        )
        assert service.terminate() == 0


def test_a_killed_worker_is_replaced_and_only_its_own_requests_fail(repository: Path) -> None:
    with running_service(repository, "--workers", "2") as service:
        service.wait_until("/health/ready", 200)
        load = Load(service.url, clients=4)
        load.wait_for(50)
        before = children(service.process.pid)
        os.kill(before[0], signal.SIGKILL)
        load.wait_for(load.answers + 50)
        deadline = time.monotonic() + 30
        while len(children(service.process.pid)) < 2 or before[0] in children(service.process.pid):
            assert time.monotonic() < deadline, service.log
            time.sleep(0.05)
        load.end()
        assert len(load.failures) <= 4  # one in flight on each connection
        assert load.refused == 0
        assert httpx.get(service.url + "/health/ready").status_code == 200
        assert service.terminate() == 0
    assert any("is replaced" in line for line in service.log)


def test_what_cannot_start_in_a_workers_place_is_tried_again_ever_more_rarely(repository: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("open-sesame\n")
    settings = (ONNX_ALONE, "--workers", "2", "--api-keys-file", str(keys))
    with running_service(repository, *settings) as service:
        service.wait_until("/health/ready", 200)
        keys.unlink()
        os.kill(service.serving_processes()[0], signal.SIGKILL)
        deadline = time.monotonic() + 60
        while len(tried := [line.split()[0] for line in service.log if "cannot start" in line]) < 3:
            assert time.monotonic() < deadline, service.log
            time.sleep(0.05)
        first, second, third = map(datetime.fromisoformat, tried)
        assert (second - first).total_seconds() > 1
        assert (third - second).total_seconds() > 2
        keys.write_text("open-sesame\n")
        while sum("is loaded" in line for line in service.log) < 3:
            assert time.monotonic() < deadline, service.log
            time.sleep(0.05)
        assert service.terminate() == 0


def test_sigterm_ends_a_lone_worker_whose_run_hangs(tmp_path: Path) -> None:
    make_bundle(tmp_path, "slow", input_size=2, hidden_size=1024, bidirectional=True)
    settings = ("--workers=1", "--drain-timeout-s=1", "--backend=onnx", "--threads=1", "--max-batch-steps=131072")
    with running_service(tmp_path, *settings) as service:
        service.wait_until("/health/ready", 200)
        body = json.dumps({"sequences": [[[0.0, 0.0]] * 10_000] * 13}).encode()
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(b"POST /v1/predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            time.sleep(1)
            began_s = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            assert connection.recv(1000).startswith(b"HTTP/1.1 503")
        assert service.process.wait(20) == 1
        assert time.monotonic() - began_s < 15
    assert any("a model run does not end" in line for line in service.log)


def test_a_worker_that_hangs_is_replaced(repository: Path) -> None:
    with running_service(repository, ONNX_ALONE, "--workers", "2", "--hang-timeout-s", "1") as service:
        service.wait_until("/health/ready", 200)
        before = children(service.process.pid)
        os.kill(before[0], signal.SIGSTOP)  # its event loop turns no more
        deadline = time.monotonic() + 30
        while len(children(service.process.pid)) < 2 or before[0] in children(service.process.pid):
            assert time.monotonic() < deadline, service.log
            time.sleep(0.05)
        assert before[1] in children(service.process.pid)
        service.wait_until("/health/ready", 200)
        assert service.terminate() == 0
    assert any("hangs and is killed" in line for line in service.log)


def cpu_s(process_id: int) -> float:
    """What a process has used of the processor."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_without_free_file_descriptors_connections_wait_and_nothing_spins(repository: Path) -> None:
    with running_service(repository, ONNX_ALONE, "--workers", "1") as service:
        service.wait_until("/health/ready", 200)
        process_id = service.process.pid
        most = len([*Path(f"/proc/{process_id}/fd").iterdir()]) + 4
        _, hard = resource.prlimit(process_id, resource.RLIMIT_NOFILE)
        resource.prlimit(process_id, resource.RLIMIT_NOFILE, (most, hard))
        host, port = service.url.removeprefix("http://").split(":")
        clients = [socket.create_connection((host, int(port)), timeout=20) for _ in range(20)]
        before = cpu_s(process_id)
        time.sleep(1)
        assert cpu_s(process_id) - before < 0.5
        for client in clients:
            client.close()
        assert httpx.get(service.url + "/health/ready", timeout=20).status_code == 200
        assert service.terminate() == 0
    assert sum("no connection can be taken" in line for line in service.log) == 1


def test_sigterm_stops_all_workers_without_losing_a_request(repository: Path) -> None:
    with running_service(repository, "--workers", "2") as service:
        service.wait_until("/health/ready", 200)
        load = Load(service.url, clients=8)
        load.wait_for(50)
        workers = children(service.process.pid)
        assert service.terminate() == 0
        load.end()
    assert load.failures == []
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_who_never_ends_its_body_is_told_that_the_service_stops(repository: Path) -> None:
    with running_service(repository, ONNX_ALONE, "--drain-timeout-s", "1") as service:
        service.wait_until("/health/ready", 200)
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{{".encode())
            assert service.terminate() == 0
            head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert set(json.loads(body)) == {"error"}
    assert not any("Traceback" in line for line in service.log)


def test_both_backends_give_the_same_answers(repository: Path) -> None:
    pytest.importorskip("torch")
    body = {"sequences": ragged(np.random.default_rng(1), (1, 7, 3, 12)), "trace": "gates"}
    answers = []
    for backend in ("onnx", "torchscript"):
        with running_service(repository, environ={"LSTM_BACKEND": backend}) as service:
            service.wait_until("/health/ready", 200)
            answers.append(httpx.post(service.url + "/v1/models/both/predict", json=body, timeout=30).json())
    onnx, torchscript = answers
    assert onnx["labels"] == torchscript["labels"]
    np.testing.assert_allclose(onnx["probabilities"], torchscript["probabilities"], atol=1e-5)
    for one, other in zip(onnx["traces"], torchscript["traces"], strict=True):
        for layer, same in zip(one["layers"], other["layers"], strict=True):
            assert (layer["name"], layer["shape"]) == (same["name"], same["shape"])
            np.testing.assert_allclose(layer["values"], same["values"], atol=1e-5)


def test_an_empty_repository_is_live_but_not_ready_and_says_what_to_do(tmp_path: Path) -> None:
    with running_service(tmp_path, ONNX_ALONE) as service:
        service.wait_until("/health/live", 200)
        answer = service.wait_until("/health/ready", 503)
        deadline = time.monotonic() + 10
        while "still loading" in (predict := httpx.post(service.url + "/v1/predict", json={})).text:
            assert time.monotonic() < deadline
    assert "retry-after" in answer.headers
    assert predict.status_code == 503
    assert "python -m model train" in predict.json()["error"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_at_sighup_it_looks_at_the_repository(repository: Path, tmp_path: Path, workers: str) -> None:
    with running_service(tmp_path, ONNX_ALONE, "--workers", workers, "--reload-interval-s", "0") as service:
        service.wait_until("/health/ready", 503)
        shutil.copytree(repository / "tiny", tmp_path / "tiny")
        service.process.send_signal(signal.SIGHUP)
        service.wait_until("/health/ready", 200)
        assert service.terminate() == 0


def test_a_worker_that_is_replaced_knows_what_was_unloaded(repository: Path) -> None:
    with running_service(repository, ONNX_ALONE, "--workers", "2") as service:
        service.wait_until("/health/ready", 200)
        unload = "/v2/repository/models/tiny/unload"
        httpx.post(service.url + unload, json={}, timeout=30).raise_for_status()
        os.kill(service.serving_processes()[0], signal.SIGKILL)
        # To load waits for every worker, the new one among them; so it has loaded when this returns.
        httpx.post(service.url + "/v2/repository/models/both/load", json={}, timeout=60).raise_for_status()
        for _ in range(20):
            assert "'tiny' is unloaded" in service.wait_until("/v1/models/tiny", 404).text
        assert service.terminate() == 0


def test_what_is_not_http_gets_an_error_of_the_usual_shape(repository: Path) -> None:
    with running_service(repository, ONNX_ALONE) as service:
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            answer = b""
            while chunk := connection.recv(4096):
                answer += chunk
        counted = 'lstm_requests_total{api="other",code="400",model="",version=""} 1.0'
        deadline = time.monotonic() + 10
        while counted not in httpx.get(service.url + "/metrics").text:  # a worker books in bulk
            assert time.monotonic() < deadline
        assert service.terminate() == 0
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert set(json.loads(body)) == {"error"}
    request_id = re.search(rb"\r\nx-request-id: (\w+)", head)
    assert request_id is not None
    assert any(request_id[1].decode() in line and "Invalid HTTP" in line for line in service.log)


def test_json_logs_are_one_object_a_line(repository: Path) -> None:
    with running_service(repository, ONNX_ALONE, "--log-format", "json", "--log-level", "debug") as service:
        service.wait_until("/health/ready", 200)
        httpx.get(service.url + "/nope", headers={"x-request-id": "mine"})
        assert service.terminate() == 0
        records = [json.loads(line) for line in service.log]
    assert any(record.get("request_id") == "mine" and record.get("status") == 404 for record in records)


def test_serving_onnx_imports_no_torch(repository: Path) -> None:
    with running_service(repository, ONNX_ALONE) as service:
        service.wait_until("/health/ready", 200)
        httpx.post(service.url + PREDICT, json={"sequences": ragged(np.random.default_rng(0), (4,))}).raise_for_status()
        mapped = "".join(Path(f"/proc/{process}/maps").read_text() for process in service.serving_processes())
    assert "onnxruntime" in mapped
    assert "/torch/" not in mapped


def test_an_unknown_setting_is_refused_by_name() -> None:
    ended = run_to_the_end(environ={"LSTM_BACKENDS": "onnx"})
    assert ended.returncode == 2
    assert "LSTM_BACKENDS" in ended.stderr


def test_a_busy_port_is_told_in_one_line(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run_to_the_end("--repository", str(repository), "--port", str(taken.getsockname()[1]))
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "cannot listen" in ended.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("backend", ["onnx", "torchscript"])
def test_cuda_that_is_missing_ends_the_start(repository: Path, backend: str, workers: str) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    ended = run_to_the_end(
        "--repository", str(repository), "--backend", backend, "--device", "cuda", "--port", "0", "--workers", workers
    )
    assert ended.returncode == 1
    assert "device cuda was asked for and cannot be used" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_service_that_is_killed_leaves_no_worker(repository: Path) -> None:
    with running_service(repository, ONNX_ALONE, "--workers", "2") as service:
        service.wait_until("/health/ready", 200)
        workers = children(service.process.pid)
        service.process.kill()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_help_names_the_flags() -> None:
    ended = run_to_the_end("--help")
    assert ended.returncode == 0
    assert "--max-batch-size" in ended.stdout
