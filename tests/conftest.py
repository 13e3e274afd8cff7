"""Fixtures that several folders of tests share."""

from pathlib import Path

import pytest
import torch
from factories import make_bundle
from hypothesis import HealthCheck, settings

# Networks this small are 20 times slower on two threads than on one: a bundle takes 0.5 s, or 14.
torch.set_num_threads(1)

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one model of each kind: `tiny`, `stacked`, `bidirectional`, `both`. Do not write to it."""
    folder = tmp_path_factory.mktemp("bundles")
    make_bundle(folder, "tiny")
    make_bundle(folder, "stacked", num_layers=2, seed=1)
    make_bundle(folder, "bidirectional", bidirectional=True, seed=2)
    make_bundle(folder, "both", num_layers=2, bidirectional=True, seed=3)
    return folder
