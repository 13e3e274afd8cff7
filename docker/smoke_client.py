"""The half of docker/smoke.sh that speaks HTTP. Standard library only: it runs inside the images, by `python -c`.

cases                    print JapaneseVowels' test sequences and their labels, as aeon ships them
request                  print a request of the first of the cases on standard input
predict BACKEND          post the cases of standard input to this container's service in requests of mixed size, check
                         the answers and that BACKEND gave them, print the cases with the probabilities that came
wait-for URL QUERY       until Prometheus at URL has a result for QUERY
panels URL               run every query of the dashboard on standard input against Prometheus at URL
"""

import importlib.util
import itertools
import json
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

MODEL = "JapaneseVowels"
SERVICE = "http://127.0.0.1:8000"
LEAST_ACCURACY = 0.95
TOLERANCE = 1e-5
PATIENCE_S = 90
REQUEST_SIZES = (1, 2, 7, 32, 100)
# Direct, whatever proxy Docker may pass into a container.
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def cases() -> None:
    """Print the test sequences in the form of a request, their labels beside them."""
    package = Path(importlib.util.find_spec("aeon").submodule_search_locations[0])
    text = (package / "datasets" / "data" / MODEL / f"{MODEL}_TEST.ts").read_text(encoding="utf-8")
    sequences, labels = [], []
    for line in filter(None, text.partition("@data\n")[2].splitlines()):
        *features, label = line.split(":")
        columns = [[float(value) for value in feature.split(",")] for feature in features]
        sequences.append(list(zip(*columns, strict=True)))
        labels.append(label.strip())
    json.dump({"sequences": sequences, "labels": labels}, sys.stdout)


def request() -> None:
    """Print three sequences of different lengths as the body of a request."""
    json.dump({"sequences": json.load(sys.stdin)["sequences"][:3]}, sys.stdout)


def predict(backend: str) -> None:
    """Check labels against the truth, and probabilities against those of the last run if there was one."""
    given = json.load(sys.stdin)
    answers, sizes, start = [], itertools.cycle(REQUEST_SIZES), 0
    while start < len(given["sequences"]):
        end = start + next(sizes)
        body = json.dumps({"sequences": given["sequences"][start:end]}).encode()
        post = urllib.request.Request(
            f"{SERVICE}/v1/models/{MODEL}/predict", body, {"Content-Type": "application/json"}
        )
        answers.append(json.load(OPEN(post, timeout=30)))
        start = end
    labels = [label for answer in answers for label in answer["labels"]]
    probabilities = [row for answer in answers for row in answer["probabilities"]]
    right = sum(map(str.__eq__, labels, given["labels"]))
    summary = f"{right} of {len(given['labels'])} labels right in {len(answers)} requests"
    assert len(labels) == len(given["labels"]), summary
    assert right >= LEAST_ACCURACY * len(labels), summary
    assert all(abs(sum(row) - 1) < TOLERANCE for row in probabilities), "probabilities do not add up to 1"
    if before := given.get("probabilities"):
        apart = max(abs(a - b) for rows in zip(before, probabilities, strict=True) for a, b in zip(*rows, strict=True))
        summary += f", probabilities at most {apart:.1e} apart"
        assert apart <= TOLERANCE, summary
    metrics = OPEN(f"{SERVICE}/metrics", timeout=10).read().decode()
    assert set(re.findall(r'lstm_model_info{.*backend="(\w+)"', metrics)) == {backend}, metrics
    json.dump(given | {"probabilities": probabilities}, sys.stdout)
    print(summary, file=sys.stderr)


def wait_for(url: str, query: str) -> None:
    """Poll until `query` has a result: the next scrape may be seconds away."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := _query(url, query)):
        if time.monotonic() > deadline:
            sys.exit(f"no result within {PATIENCE_S} s: {query}")
        time.sleep(1)
    print(", ".join(sample["value"][1] for sample in found))


def panels(url: str) -> None:
    """Run the queries of all panels; one that Prometheus refuses fails, one without data is named."""
    empty, count = [], 0
    for panel in json.load(sys.stdin)["panels"]:
        for target in panel.get("targets", []):
            count += 1
            query = target["expr"].replace("$__rate_interval", "1m").replace("$model", ".*")
            if not _query(url, query):
                empty.append(panel["title"])
    assert len(empty) < count, "no panel has data"
    print(f"{count} queries; without data: {', '.join(dict.fromkeys(empty)) or 'none'}")


def _query(url: str, query: str) -> list[dict[str, Any]]:
    address = f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    return json.load(OPEN(address, timeout=10))["data"]["result"]


if __name__ == "__main__":
    commands = {"cases": cases, "request": request, "predict": predict, "wait-for": wait_for, "panels": panels}
    commands[sys.argv[1]](*sys.argv[2:])
