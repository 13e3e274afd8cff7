import pytest
from model_factories import make_epoch

from model.observations import observe


def say(*figures):
    """What is said of the last of the epochs `(loss, accuracy[, validation_loss])`."""
    trace = [
        make_epoch(number, loss, accuracy, validation_loss=rest[0] if rest else None)
        for number, (loss, accuracy, *rest) in enumerate(figures, 1)
    ]
    return observe(trace[:-1], trace[-1], num_classes=3)


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        ([(1.12, 0.35)], "close to guessing among 3 classes (a loss of 1.10)"),
        ([(0.90, 0.55)], "already better than guessing among 3 classes (a loss of 1.10)"),
        ([(1.0, 0.50), (0.77, 0.62)], "loss fell by 23%, accuracy up 12 points"),
        ([(1.0, 0.50), (0.9, 0.51)], "loss fell by 10%, accuracy up 1 point"),
        ([(1.0, 0.50), (0.9, 0.48)], "loss fell by 10%, accuracy down 2 points"),
        ([(1.0, 0.50), (0.9, 0.50), (0.6, 0.70)], "loss fell by 33%, accuracy up 20 points: the largest step so far"),
        ([(1.0, 0.50), (0.6, 0.50), (0.5, 0.50)], "loss fell by 17%, accuracy unchanged"),
        ([(1.0, 0.50), (0.995, 0.50)], "level with the epoch before, accuracy unchanged"),
        ([(1.0, 0.5), (0.995, 0.5), (0.999, 0.6)], "level for the 2nd epoch in a row, accuracy up 10 points"),
        ([(1.0, 0.5), (0.010, 0.9), (0.011, 0.9)], "level with the epoch before, accuracy unchanged"),
        ([(0.7, 1.0), (0.0, 1.0), (0.1, 1.0)], "a step back: loss rose from zero, accuracy unchanged"),
        ([(1.0, 0.50), (1.2, 0.45)], "a step back: loss rose by 20%, accuracy down 5 points"),
        (
            [(1.0, 0.5), (0.2, 0.9), (0.3, 0.8), (0.2, 0.9)],
            "loss fell by 33%, accuracy up 10 points: the setback is made good",
        ),
        (
            [(1.0, 0.5), (0.5, 0.9), (0.3, 1.0)],
            "loss fell by 40%, accuracy up 10 points: every training sequence is classified rightly for the first time",
        ),
        ([(1.0, 0.5), (0.5, 1.0), (0.3, 1.0)], "loss fell by 40%, accuracy unchanged"),
        (
            [(1.0, 0.5, 1.0), (0.6, 0.6, 0.9), (0.4, 0.7, 0.8)],
            "loss fell by 33%, accuracy up 10 points: the best on validation so far",
        ),
        ([(1.0, 0.5, 1.0), (0.7, 0.6, 1.1)], "loss fell by 30%, accuracy up 10 points, but validation loss rose"),
        (
            [(1.0, 0.5, 1.0), (0.7, 0.6, 1.1), (0.5, 0.7, 1.2)],
            "validation loss rose for the 2nd time in a row as training loss fell: overfitting begins",
        ),
        ([(1.0, 0.5, 1.0), (0.7, 0.6, 1.1), (0.9, 0.5, 1.2)], "a step back: loss rose by 29%, accuracy down 10 points"),
    ],
)
def test_each_situation_has_its_sentence(figures, sentence):
    assert say(*figures) == sentence


@pytest.mark.parametrize(("count", "ordinal"), [(3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (21, "21st")])
def test_epochs_in_a_row_are_counted_in_english(count, ordinal):
    assert f" {ordinal} " in say(*[(1.0, 0.5)] * (count + 1))
