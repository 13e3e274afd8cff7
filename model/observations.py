"""One plain sentence about each epoch of the training trace, computed from its numbers and those before it."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from model.bundle import Epoch

# A change of the loss is none when it is below a hundredth of the loss before, or below two thousandths of the first
# epoch's: once the loss is a few hundredths of what it was, it goes up and down with the order of the batches.
LEVEL_OF_BEFORE = 0.01
LEVEL_OF_FIRST = 0.002
LEVEL_ACCURACY = 0.005


def observe(before: Sequence[Epoch], now: Epoch, *, num_classes: int) -> str:
    """Say what `now` brought compared with the epochs `before` it, the most recent last."""
    if not before:
        return _first(now, num_classes)
    trace = [*before, now]
    change = _accuracy_change(before[-1], now)
    rises = _count_last(_fall(*pair, trace[0]) > 0 and _validation_rose(*pair) for pair in _backwards(trace))
    levels = _count_last(_fall(*pair, trace[0]) == 0 for pair in _backwards(trace))
    fall = _fall(before[-1], now, trace[0])
    if rises > 1:
        return f"validation loss rose for the {_ordinal(rises)} time in a row as training loss fell: overfitting begins"
    if rises == 1:
        return f"loss fell by {fall:.0%}{change}, but validation loss rose"
    if levels > 0:
        return (
            f"level {f'for the {_ordinal(levels)} epoch in a row' if levels > 1 else 'with the epoch before'}{change}"
        )
    if fall < 0:
        return f"a step back: loss rose {f'by {-fall:.0%}' if fall > -math.inf else 'from zero'}{change}"
    return f"loss fell by {fall:.0%}{change}{_distinction(trace)}"


def _first(now: Epoch, num_classes: int) -> str:
    chance = math.log(num_classes)
    if now.loss < 0.95 * chance:
        return f"already better than guessing among {num_classes} classes (a loss of {chance:.2f})"
    return f"close to guessing among {num_classes} classes (a loss of {chance:.2f})"


def _distinction(trace: Sequence[Epoch]) -> str:
    """What sets the last epoch's fall of the loss apart from the earlier ones, the most telling first."""
    *before, now = trace
    if now.accuracy == 1.0 and all(epoch.accuracy < 1.0 for epoch in before):
        return ": every training sequence is classified rightly for the first time"
    *steps, step = [a.loss - b.loss for a, b in pairwise(trace)]
    if steps and step > max(steps):
        return ": the largest step so far"
    if min(epoch.loss for epoch in before) < before[-1].loss and now.loss <= min(epoch.loss for epoch in before):
        return ": the setback is made good"
    earlier = [epoch.validation_loss for epoch in before if epoch.validation_loss is not None]
    if earlier and now.validation_loss is not None and now.validation_loss < min(earlier):
        return ": the best on validation so far"
    return ""


def _fall(before: Epoch, now: Epoch, first: Epoch) -> float:
    """The fall of the training loss as a fraction of what it was: negative for a rise, zero where it is level.

    A loss can be zero exactly, in float32; from there it rises by infinitely much.
    """
    fall = before.loss - now.loss
    if abs(fall) < max(LEVEL_OF_BEFORE * before.loss, LEVEL_OF_FIRST * first.loss):
        return 0.0
    return fall / before.loss if before.loss else -math.inf


def _validation_rose(before: Epoch, now: Epoch) -> bool:
    if before.validation_loss is None or now.validation_loss is None:
        return False
    return now.validation_loss > (1 + LEVEL_OF_BEFORE) * before.validation_loss


def _accuracy_change(before: Epoch, now: Epoch) -> str:
    change = now.accuracy - before.accuracy
    if abs(change) < LEVEL_ACCURACY:
        return ", accuracy unchanged"
    points = round(100 * abs(change))
    return f", accuracy {'up' if change > 0 else 'down'} {points} point{'' if points == 1 else 's'}"


def _backwards(trace: Sequence[Epoch]) -> Iterator[tuple[Epoch, Epoch]]:
    """Each epoch with the one before it, the last first."""
    return zip(reversed(trace[:-1]), reversed(trace), strict=False)


def _count_last(conditions: Iterator[bool]) -> int:
    """How many of `conditions` hold before the first that does not."""
    count = 0
    for condition in conditions:
        if not condition:
            break
        count += 1
    return count


def _ordinal(number: int) -> str:
    if number % 100 in {11, 12, 13}:
        return f"{number}th"
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{endings.get(number % 10, 'th')}"
