import pytest
import torch
from model_factories import make_network
from torch.nn.utils.rnn import pack_padded_sequence

DIRECTIONS = pytest.mark.parametrize("bidirectional", [False, True])
LENGTHS = torch.tensor([4, 1, 7, 3])


@DIRECTIONS
def test_logits_are_of_each_sequence_alone_whatever_it_is_padded_with(bidirectional):
    network = make_network(2, bidirectional)
    torch.manual_seed(0)
    sequences = torch.randn(4, 7, 3)
    together = network(sequences, LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone = network(sequences[row : row + 1, :length], LENGTHS[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-6, rtol=0)


@DIRECTIONS
def test_the_last_hidden_state_is_the_one_of_packed_sequences(bidirectional):
    network = make_network(1, bidirectional)
    torch.manual_seed(0)
    sequences = torch.randn(4, 7, 3)
    packed = pack_padded_sequence(
        (sequences - network.mean) / network.std, LENGTHS, batch_first=True, enforce_sorted=False
    )
    _, (hn, _) = network.lstm(packed)
    expected = network.linear(torch.cat([*hn], dim=1))
    torch.testing.assert_close(network(sequences, LENGTHS), expected, atol=1e-6, rtol=0)


def test_noise_is_added_in_training_alone():
    network = make_network(1, False)
    sequences = torch.ones(1, 7, 3)
    network.input_noise = 0.5
    try:
        network.train()
        assert not torch.equal(network(sequences, LENGTHS[:1]), network(sequences, LENGTHS[:1]))
        network.eval()
        assert torch.equal(network(sequences, LENGTHS[:1]), network(sequences, LENGTHS[:1]))
    finally:
        network.input_noise = 0.0
        network.eval()
