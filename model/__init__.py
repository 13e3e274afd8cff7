"""The offline half: data, training, evaluation, export, and the bundle that the service reads."""
