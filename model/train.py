"""The training loop: from a data set to a trained network and the trace of how it got there.

Repeatable bit for bit on the CPU for the same seed, data and settings. With `data_parallel` processes each of them
runs this same code on its share of every batch (see `distributed.py`).
"""

import copy
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from model.bundle import Epoch, TrainingConfig
from model.data import Dataset, Split, batches_by_length, stratified_split
from model.network import LSTMClassifier, NetworkSize
from model.observations import observe
from model.progress import Progress


class TrainingError(ValueError):
    """Settings that cannot be trained with; the message says which and what to do."""


def train(
    data: Dataset, size: NetworkSize, config: TrainingConfig, *, progress: Progress, rank: int = 0
) -> tuple[LSTMClassifier, tuple[Epoch, ...]]:
    """Train a network of `size` on `data.train`; return it in evaluation mode on the CPU, with the trace.

    The weights are the best by validation loss, or the last when nothing is held out for validation. Raises
    `TrainingError` when the loss is no longer finite.
    """
    device = torch.device(config.device, rank) if config.device == "cuda" else torch.device(config.device)
    with _repeatable(config.seed + rank, device):
        fitting, validation = hold_out(data.train, config)
        sequences, targets = to_device(fitting, device)
        network = LSTMClassifier(size, dropout=config.dropout, input_noise=config.input_noise).to(device)
        standardise(network, fitting)
        model = DistributedDataParallel(network) if config.data_parallel > 1 else network
        optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        shuffling = torch.Generator().manual_seed(config.seed)
        steps = config.epochs * math.ceil(len(fitting) / _batch_size(config))
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps)

        trace: list[Epoch] = []
        best_loss, best_weights, best_epoch = float("inf"), network.state_dict(), 0
        for number in range(1, config.epochs + 1):
            started = time.perf_counter()
            network.train()
            totals = torch.zeros(3, dtype=torch.float64)  # loss, correct, sequences seen
            for batch in _batches(len(fitting), config, shuffling):
                rows = batch[rank :: config.data_parallel].to(device)  # (B)
                logits = model(*pad(sequences, rows))  # (B, K)
                loss = cross_entropy(logits, targets[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch's
                clip_grad_norm_(network.parameters(), config.gradient_clip)
                optimizer.step()
                scheduler.step()
                totals += _totals(loss, logits, targets[rows])
                progress.advance(len(batch), totals)
            mean_loss, accuracy = _means(totals, config)
            validation_loss, validation_accuracy = _validate(network, validation, config)
            if not np.isfinite([mean_loss, validation_loss or 0.0]).all():
                raise TrainingError(f"the loss is no longer finite in epoch {number}: try a lower --learning-rate")
            epoch = Epoch(
                epoch=number,
                loss=mean_loss,
                accuracy=accuracy,
                validation_loss=validation_loss,
                validation_accuracy=validation_accuracy,
                learning_rate=float(scheduler.get_last_lr()[0]),
                duration_s=time.perf_counter() - started,
                observation="",
            )
            observation = observe(trace, epoch, num_classes=size.num_classes)
            trace.append(epoch.model_copy(update={"observation": observation}))
            progress.epoch(trace[-1])
            if validation_loss is None:
                continue
            if validation_loss < best_loss:
                best_loss, best_weights, best_epoch = validation_loss, copy.deepcopy(network.state_dict()), number
            if 0 < config.patience <= number - best_epoch:
                break
        network.load_state_dict(best_weights)
        return network.cpu().eval(), tuple(trace)


def choose_device(wanted: str) -> str:
    """Resolve `auto`, `cpu` or `cuda` to a device that is there; raise `TrainingError` where CUDA is not."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device cuda: PyTorch finds no CUDA GPU here; use cpu, or auto to take what there is")
    return wanted


def standardise(network: LSTMClassifier, split: Split) -> None:
    """Set the network's mean and deviation to those of all steps of `split`; a constant feature keeps its scale.

    One that deviates by less than 1e-30 counts as constant: the weights that divide by less could overflow.
    """
    steps = np.concatenate(split.sequences).astype(np.float64)  # (sum of T, F)
    mean, std = steps.mean(axis=0), steps.std(axis=0)
    std = np.where(std > np.maximum(1e-7 * np.abs(mean), 1e-30), std, 1.0)
    network.mean.copy_(torch.from_numpy(mean))
    network.std.copy_(torch.from_numpy(std))


def to_device(split: Split, device: torch.device) -> tuple[list[Tensor], Tensor]:
    """`split` as tensors on `device`: N sequences `(T_i, F)`, and targets `(N)` int64."""
    return [torch.from_numpy(s).to(device) for s in split.sequences], torch.from_numpy(split.targets).to(device)


def pad(sequences: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Those at `rows` `(B)` as one tensor `(B, T, F)`, padded on the right, and their lengths `(B)` int64.

    Of a whole data set one long sequence would make all of them long.
    """
    chosen = [sequences[row] for row in rows.tolist()]
    return nn.utils.rnn.pad_sequence(chosen, batch_first=True), torch.tensor([len(s) for s in chosen]).to(rows.device)


@contextmanager
def _repeatable(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch, and allow it deterministic algorithms and one thread; put all back as they were afterwards.

    Sums that several threads share depend on how many there are: JapaneseVowels ends in other weights with two. A step
    of 64 units takes twice as long with two threads, one of 256 units two thirds; `data_parallel` uses more cores.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
    mode, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, without its 2 s of imports
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(mode)
            torch.set_num_threads(threads)


def hold_out(split: Split, config: TrainingConfig) -> tuple[Split, Split | None]:
    """What of the training data `config` trains on, and what it holds out for validation, if anything."""
    if config.validation_fraction == 0:
        return split, None
    rest, held_out = stratified_split(split, fraction=config.validation_fraction, seed=config.seed)
    return (rest, held_out) if len(held_out) else (split, None)


def _batches(count: int, config: TrainingConfig, shuffling: torch.Generator) -> Iterator[Tensor]:
    """Shuffled rows in batches; a few may come twice, so that every process has its equal share of the last one."""
    order = torch.randperm(count, generator=shuffling)
    order = torch.cat([order, order[: -count % config.data_parallel]])
    yield from torch.split(order, _batch_size(config))


def _batch_size(config: TrainingConfig) -> int:
    """The batch of all processes together: as configured, rounded up to their multiple."""
    return math.ceil(config.batch_size / config.data_parallel) * config.data_parallel


def _totals(loss: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    correct = int((logits.argmax(dim=1) == targets).sum())
    return torch.tensor([loss.item() * len(targets), correct, len(targets)], dtype=torch.float64)


def _means(totals: Tensor, config: TrainingConfig) -> tuple[float, float]:
    """Mean loss and accuracy over all processes, the same in each of them."""
    if config.data_parallel > 1:
        totals = totals.to(config.device)
        dist.all_reduce(totals)
    loss, correct, seen = totals.tolist()
    return loss / seen, correct / seen


@torch.no_grad()
def _validate(
    network: LSTMClassifier, split: Split | None, config: TrainingConfig
) -> tuple[float, float] | tuple[None, None]:
    if split is None:
        return None, None
    network.eval()
    sequences, targets = to_device(split, network.mean.device)
    totals = torch.zeros(3, dtype=torch.float64)
    for batch in batches_by_length([len(s) for s in split.sequences], most=256):
        rows = torch.from_numpy(batch).to(network.mean.device)
        logits = network(*pad(sequences, rows))
        totals += _totals(cross_entropy(logits, targets[rows]), logits, targets[rows])
    return _means(totals, config)
