"""Several runtimes of one model: each batch is computed by the one that `service.costs` chose for its shape."""

from collections.abc import Mapping, Sequence
from typing import Final

from service.backends import Array, Backend, Batch, DeviceName, Precision, RuntimeName
from service.costs import Costs


class FastestBackend:
    """Chooses among backends that give the same within what their bundle's parity allows.

    `run` may be called from any one thread at a time.
    """

    name: Final = "auto"

    def __init__(self, backends: Mapping[RuntimeName, Backend], costs: Costs) -> None:
        one = next(iter(backends.values()))
        self.device: DeviceName = one.device
        self.precision: Precision = one.precision
        self._backends = backends
        self._costs = costs

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        """Run the graph; return `outputs` by name."""
        rows, steps, _ = batch.sequences.shape
        return self._backends[self._costs.chosen(rows, steps)].run(batch, outputs)
