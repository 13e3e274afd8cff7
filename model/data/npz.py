"""Read a NumPy `.npz` archive: padded arrays, their lengths and their labels.

`X` `(N, T, F)` and `y` `(N,)`, strings or integers; optional `lengths` `(N,)`, and a held-out half of its own in
`X_test`, `y_test`, `lengths_test`. Nothing is unpickled. What lies beyond a sequence's length is padding: never read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import DataError
from model.data.labelled import Halves, LabelledSequences

NUMBER_KINDS = "iuf"
INTEGER_KINDS = "iu"
LABEL_KINDS = "iuU"


def read_npz(path: Path) -> Halves:
    """Read `path`; raises `DataError` that names the array for anything but the layout above."""
    arrays = _arrays(path)
    train = _half(arrays, "", path.name)
    has_test = any(f"{array}_test" in arrays for array in ("X", "y", "lengths"))
    return Halves(path.stem, train, _half(arrays, "_test", path.name) if has_test else None)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        # Opened here: np.load leaves the file open when the content is not what it expects.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds a single array without a name")
            return {name: np.asarray(archive[name]) for name in archive.files}
    except Exception as error:  # a damaged file makes zipfile, zlib, tokenize or NumPy raise, each errors of its own
        raise DataError(
            f"{path.name}: got a file that does not load as .npz ({error}), "
            "allowed is what numpy.savez writes, without object arrays"
        ) from error


def _half(arrays: Mapping[str, NDArray[Any]], suffix: str, file: str) -> LabelledSequences:
    for required in (f"X{suffix}", f"y{suffix}"):
        if required not in arrays:
            raise DataError(f"{file}: no array {required!r}; got {sorted(arrays)}")
    X = arrays[f"X{suffix}"]
    if X.ndim != 3 or X.dtype.kind not in NUMBER_KINDS:
        raise DataError(f"{file}, X{suffix}: got shape {X.shape} {X.dtype}, allowed is (N, T, F) of real numbers")
    y = arrays[f"y{suffix}"]
    if y.shape != X.shape[:1] or y.dtype.kind not in LABEL_KINDS:
        raise DataError(
            f"{file}, y{suffix}: got shape {y.shape} {y.dtype}, allowed is ({len(X)},) of strings or integers"
        )
    lengths = _lengths(arrays.get(f"lengths{suffix}"), X, f"{file}, lengths{suffix}")
    return LabelledSequences(
        sequences=tuple(X[i, :length] for i, length in enumerate(lengths)),
        labels=tuple(str(label) for label in y),
        origins=tuple(f"{file}, X{suffix}[{i}]" for i in range(len(X))),
    )


def _lengths(lengths: NDArray[Any] | None, X: NDArray[Any], origin: str) -> NDArray[Any]:
    """The steps `(N,)` of each row of `X` `(N, T, F)`; all T where the file gives no lengths."""
    if lengths is None:
        return np.full(len(X), X.shape[1])
    if lengths.shape != X.shape[:1] or lengths.dtype.kind not in INTEGER_KINDS:
        raise DataError(f"{origin}: got shape {lengths.shape} {lengths.dtype}, allowed is ({len(X)},) of integers")
    bad = np.flatnonzero((lengths < 1) | (lengths > X.shape[1]))
    if len(bad):
        raise DataError(f"{origin}[{bad[0]}]: got {lengths[bad[0]]}, allowed is 1 to {X.shape[1]}")
    return lengths
