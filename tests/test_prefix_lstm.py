"""The LSTM over a tree of prefixes against PyTorch's own, sequence by sequence."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rna_s2.s2.prefix_lstm import last_states, prefix_tree

CHANNELS = 3
one = st.lists(st.integers(0, 2**CHANNELS - 1), min_size=1, max_size=6)


def packed(sequences: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Codes and step sizes of sequences by falling length."""
    longest = max(map(len, sequences), default=0)
    steps = [[s[t] for s in sequences if len(s) > t] for t in range(longest)]
    return np.array([code for step in steps for code in step], np.uint8), np.array([len(step) for step in steps], np.int64)


def bits(codes) -> torch.Tensor:
    return torch.tensor(np.array(codes)[:, None] >> np.arange(CHANNELS) & 1, dtype=torch.float32).view(-1, CHANNELS)


def test_a_tree_by_hand():
    """``abc``, ``abd`` and ``b`` have five prefixes: a, b, ab, abc, abd."""
    tree = prefix_tree(*packed([[1, 2, 3], [1, 2, 4], [2]]))
    assert tree.offsets == [0, 2, 3, 5]
    assert tree.parent.tolist()[2:] == [0, 2, 2]
    assert tree.first.tolist() == [0, 2, 3, 5, 6]
    assert tree.end.tolist() == [3, 4, 1]


def test_no_sequences_have_no_nodes():
    tree = prefix_tree(np.zeros(0, np.uint8), np.zeros(0, np.int64))
    assert tree.offsets == [0] and not len(tree.parent) and not len(tree.first) and not len(tree.end)


@settings(max_examples=60, deadline=None)
@given(st.lists(one, min_size=1, max_size=9))
def test_nodes_are_the_prefixes(sequences):
    sequences.sort(key=len, reverse=True)
    tree = prefix_tree(*packed(sequences))
    prefixes = {tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)}
    assert tree.offsets[-1] == len(prefixes)
    assert [sum(len(p) == n for p in prefixes) for n in range(1, len(tree.offsets))] == np.diff(tree.offsets).tolist()
    values = packed(sequences)[0][tree.first.numpy()]
    for sequence, node in zip(sequences, tree.end.tolist(), strict=True):
        read = []
        for start in tree.offsets[len(sequence) - 1:: -1]:
            read.append(int(values[node]))
            assert node >= start
            node = int(tree.parent[node])
        assert read[::-1] == sequence


@settings(max_examples=40, deadline=None)
@given(st.lists(one, min_size=1, max_size=9), st.integers(1, 3), st.integers(0, 99))
def test_states_and_gradients_are_those_of_each_sequence_alone(sequences, layers, seed):
    sequences.sort(key=len, reverse=True)
    torch.manual_seed(seed)
    lstm = torch.nn.LSTM(CHANNELS, 5, layers)
    weight = torch.randn(len(sequences), 5)
    codes, step_sizes = packed(sequences)
    got = last_states(lstm, bits(codes), prefix_tree(codes, step_sizes))
    (got * weight).sum().backward()
    gradients = [p.grad.clone() for p in lstm.parameters()]
    lstm.zero_grad()
    wanted = torch.stack([lstm(bits(s)[:, None])[0][-1, 0] for s in sequences])
    (wanted * weight).sum().backward()
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
    for mine, own in zip(gradients, lstm.parameters(), strict=True):
        torch.testing.assert_close(mine, own.grad, rtol=1e-3, atol=1e-5)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(CHANNELS, 2, 2).double()
    codes, step_sizes = packed([[1, 2, 3], [1, 2, 3], [1, 2, 4], [1], [5]])
    tree = prefix_tree(codes, step_sizes)
    read = torch.zeros(len(codes), 1, dtype=torch.double)
    read[tree.first] = 1  # of positions with the same prefix the first is read; the others have no gradient
    inputs = [bits(codes).double(), *lstm.parameters()]
    names = [name for name, _ in lstm.named_parameters()]

    def states(values, *weights):
        for name, value in zip(names, weights, strict=True):
            delattr(lstm, name)
            setattr(lstm, name, value)
        return last_states(lstm, values * read, tree)

    assert torch.autograd.gradcheck(states, [each.detach().requires_grad_() for each in inputs])


def test_without_gradients_the_states_are_the_same():
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(CHANNELS, 4, 2)
    codes, step_sizes = packed([[1, 2, 3], [1, 2], [7]])
    arguments = lstm, bits(codes), prefix_tree(codes, step_sizes)
    with torch.inference_mode():
        got = last_states(*arguments)
    torch.testing.assert_close(got, last_states(*arguments).detach(), rtol=0, atol=0)
