"""What most people write: a FastAPI route with pydantic models that calls ONNX Runtime. No batching.

`create_def`'s route runs in Starlette's thread pool; `create_async`'s on the event loop, so that two workers use two
cores and a request pays for no thread.
"""

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from bench.servers.classifier import Classifier


class Request(BaseModel):
    """Sequences of equal or different lengths."""

    sequences: list[list[list[float]]]


class Answer(BaseModel):
    """Probabilities `(B, K)`."""

    probabilities: list[list[float]]


def create_def() -> FastAPI:
    """The application with a `def` route."""
    app, classifier = FastAPI(), Classifier()

    @app.post("/predict")
    def predict(request: Request) -> Answer:
        return _answer(classifier, request)

    return app


def create_async() -> FastAPI:
    """The application with an `async def` route."""
    app, classifier = FastAPI(), Classifier()

    @app.post("/predict")
    async def predict(request: Request) -> Answer:
        return _answer(classifier, request)

    return app


def _answer(classifier: Classifier, request: Request) -> Answer:
    sequences = [np.array(sequence, np.float32) for sequence in request.sequences]
    return Answer(probabilities=classifier.classify(sequences).tolist())
