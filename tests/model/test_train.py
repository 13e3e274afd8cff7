from dataclasses import replace

import numpy as np
import pytest
import torch
from model_factories import make_config, make_dataset, make_split

from model.data import Split, load
from model.network import LSTMClassifier, NetworkSize
from model.onnx_graph import constants
from model.presets import LARGE, REFERENCE, SMALL, preset_for
from model.progress import NoProgress
from model.train import TrainingError, choose_device, hold_out, pad, standardise, to_device, train

SIZE = NetworkSize(input_size=2, hidden_size=4, num_layers=2, bidirectional=False, num_classes=2)


def run(data=None, size=SIZE, **changes):
    return train(data or make_dataset(), size, make_config(**changes), progress=NoProgress())


def figures(trace):
    return [epoch.model_dump(exclude={"duration_s"}) for epoch in trace]


def test_the_same_seed_repeats_weights_and_trace_bit_for_bit():
    (network, trace), (again, trace_again) = run(seed=3), run(seed=3)
    assert figures(trace) == figures(trace_again)
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_another_seed_gives_another_network():
    assert not torch.equal(run(seed=3)[0].linear.weight, run(seed=4)[0].linear.weight)


@pytest.mark.parametrize(
    "change", [{"weight_decay": 1.0}, {"dropout": 0.0}, {"input_noise": 0.0}, {"gradient_clip": 1e-3}], ids=str
)
def test_each_setting_changes_what_is_learnt(change):
    size = replace(SIZE, num_layers=1)  # of one layer nothing but the classifier is behind a dropout
    (usual, _), (changed, _) = run(size=size), run(size=size, **change)
    assert not torch.allclose(usual.linear.weight, changed.linear.weight, atol=1e-5)


def test_training_leaves_pytorch_as_it_was():
    def settings():
        return torch.get_num_threads(), torch.get_deterministic_debug_mode(), torch.get_rng_state().sum().item()

    before = settings()
    run()
    assert settings() == before


def test_what_is_easy_to_learn_is_learnt():
    _, trace = run(epochs=20, learning_rate=0.02, dropout=0.0)
    assert trace[-1].accuracy == 1.0
    assert trace[-1].loss < 0.2 < trace[0].loss


def test_one_cycle_rises_and_ends_near_zero():
    _, trace = run(epochs=10)
    rates = [epoch.learning_rate for epoch in trace]
    assert max(rates) > 0.9 * 0.01
    assert rates[0] < max(rates) > 100 * rates[-1]


def test_mean_and_deviation_are_those_of_the_training_steps_alone():
    train_split = Split((np.array([[1, 5]], np.float32), np.array([[3, 5], [5, 5]], np.float32)), np.array([0, 1]))
    network = LSTMClassifier(SIZE)
    standardise(network, train_split)
    torch.testing.assert_close(network.mean, torch.tensor([3.0, 5.0]))
    torch.testing.assert_close(
        network.std, torch.tensor([(8 / 3) ** 0.5, 1.0]), msg="a constant feature keeps its scale"
    )


@pytest.mark.parametrize(("scale", "kept"), [(1e-29, 1e-29), (1e-37, 1.0)])
def test_a_deviation_that_could_not_be_divided_by_counts_as_none(scale, kept):
    network = LSTMClassifier(SIZE)
    values = np.array([[-scale, 0], [scale, 0]], np.float32)
    standardise(network, Split((values,), np.array([0])))
    assert network.std.tolist() == pytest.approx([kept, 1.0])
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    assert np.isfinite(constants(SIZE, weights)["W_0"] / weights["std"]).all()


def test_sequences_are_padded_on_the_right():
    split = make_split(5)
    sequences, targets = to_device(split, torch.device("cpu"))
    assert targets.tolist() == split.targets.tolist()
    padded, lengths = pad(sequences, torch.tensor([3, 0, 4]))
    for row, length, chosen in zip(padded, lengths.tolist(), (3, 0, 4), strict=True):
        np.testing.assert_array_equal(row[:length], split.sequences[chosen])
        assert not row[length:].any()


def test_without_validation_every_epoch_is_run_and_the_last_weights_are_kept():
    _, trace = run(epochs=3, patience=1)
    assert len(trace) == 3
    assert trace[-1].validation_loss is None


def test_training_stops_when_validation_gets_no_better_and_keeps_the_best_weights():
    split = make_split(40)
    noise = np.random.default_rng(0).integers(0, 2, 40)  # labels that nothing but memory can learn
    network, trace = run(
        make_dataset(Split(split.sequences, noise)),
        epochs=200,
        learning_rate=0.05,
        dropout=0.0,
        validation_fraction=0.3,
        patience=4,
    )
    losses = [epoch.validation_loss for epoch in trace]
    assert len(trace) < 200
    assert losses.index(min(losses)) == len(trace) - 1 - 4

    unstopped, _ = run(
        make_dataset(Split(split.sequences, noise)),
        epochs=200,
        learning_rate=0.05,
        dropout=0.0,
        validation_fraction=0.3,
        patience=5,
    )
    assert torch.equal(network.linear.weight, unstopped.linear.weight), "one more epoch of patience, the same best"


def test_a_loss_that_is_no_longer_finite_is_an_error_with_advice():
    with pytest.raises(TrainingError, match="epoch 1: try a lower --learning-rate"):
        run(learning_rate=1e38, gradient_clip=1e38)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_asked_for_and_missing_is_an_error_and_auto_takes_the_cpu():
    with pytest.raises(TrainingError, match="device cuda"):
        choose_device("cuda")
    assert choose_device("auto") == "cpu"


@pytest.mark.parametrize(("count", "preset"), [(20, SMALL), (1200, LARGE)])
def test_a_validation_split_is_the_default_of_large_sets_alone(count, preset):
    assert preset_for(make_dataset(make_split(count))) == preset
    assert preset_for(load("reference", seed=0)) == REFERENCE


def test_a_feature_whose_deviation_float32_cannot_hold_keeps_its_scale():
    network = LSTMClassifier(SIZE)
    steps = np.zeros((2000, 2), np.float32)
    steps[0] = 1e-45
    standardise(network, Split((steps,), np.array([0])))
    assert network.std.tolist() == [1.0, 1.0]


def test_a_training_standardises_by_what_it_fits_not_by_what_it_holds_out():
    data, config = make_dataset(), make_config(validation_fraction=0.3)
    fitting, validation = hold_out(data.train, config)
    network, _ = run(data, validation_fraction=0.3)
    np.testing.assert_allclose(network.mean, np.concatenate(fitting.sequences).mean(axis=0), rtol=1e-5)
    everything = np.concatenate([*fitting.sequences, *validation.sequences])
    assert not np.allclose(network.mean, everything.mean(axis=0), rtol=1e-5)


def test_only_the_generated_set_has_the_settings_of_the_reference_case():
    assert preset_for(load("reference", seed=0)) == REFERENCE
    assert preset_for(make_dataset(name="reference", source="file reference.csv")) == SMALL
