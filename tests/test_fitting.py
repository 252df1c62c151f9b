"""What both stages train with: learning-rate schedules, splits by group, and Muon beside AdamW."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rna_s2.fitting import schedules
from rna_s2.fitting.module import TrackedModule
from rna_s2.fitting.optimizers import MuonAdamW
from rna_s2.fitting.schedules import SCHEDULE_HELP, SCHEDULES, WARMUP_SHARE, constant, cosine, cosine_by_progress
from rna_s2.fitting.split import split_by_group, split_by_order
from rna_s2.options.base import validate
from rna_s2.options.errors import UserError
from rna_s2.s2.config import TrainingConfig


def test_a_constant_rate_is_the_same_at_each_step():
    assert {constant(step, 100, WARMUP_SHARE) for step in range(100)} == {1.0}


def test_the_rate_rises_and_then_falls_to_nothing():
    shares = [cosine(step, 100, WARMUP_SHARE) for step in range(100)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and max(shares) == 1.0
    assert shares[5:] == sorted(shares[5:], reverse=True)
    assert cosine(52, 100, WARMUP_SHARE) == pytest.approx(0.5, abs=0.02) and 0 < shares[-1] < 0.001
    assert cosine(0, 1, WARMUP_SHARE) == 1.0


def test_the_rise_takes_the_first_twentieth_of_any_number_of_steps():
    for steps in range(1, 2000):
        rise = max(1, steps // 20)
        assert cosine(rise - 1, steps, WARMUP_SHARE) == cosine(rise, steps, WARMUP_SHARE) == 1.0
        assert rise == 1 or cosine(rise - 2, steps, WARMUP_SHARE) == (rise - 1) / rise


@pytest.mark.parametrize(
    ("progress", "warmup_share", "share"), [(0, 0.1, 0.001), (0.05, 0.1, 0.501), (0.1, 0.1, 1), (0.55, 0.1, 0.5), (0, 0, 1)]
)
def test_by_progress_rates_rise_and_fall(progress, warmup_share, share):
    assert cosine_by_progress(round(progress * 1000), 1000, warmup_share) == pytest.approx(share)
    assert cosine_by_progress(1000, 1000, warmup_share) == pytest.approx(0, abs=1e-9)


def test_an_unknown_schedule_is_refused_with_the_known_ones(monkeypatch):
    with pytest.raises(UserError, match=r"x\.yaml: 'lr_schedule': must be one of constant, cosine, cosine_by_progress"):
        validate(TrainingConfig, {"lr_schedule": "step"}, "x.yaml")
    monkeypatch.setitem(schedules.SCHEDULES, "step", constant)
    assert validate(TrainingConfig, {"lr_schedule": "step"}, "x.yaml").lr_schedule == "step"


def test_the_help_lists_each_schedule():
    assert TrainingConfig.model_fields["lr_schedule"].description == SCHEDULE_HELP
    assert [part.split(":")[0] for part in SCHEDULE_HELP.split("; ")] == list(SCHEDULES)


class OneWeight(TrackedModule):
    """A module with a schedule and no data."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.weight, self.name = torch.nn.Parameter(torch.zeros(1)), name

    def configure_optimizers(self):
        return self.scheduled(torch.optim.SGD([self.weight], lr=2.0), self.name)


def test_a_module_takes_its_rates_from_the_registry(monkeypatch):
    class Trainer:
        estimated_stepping_batches = 4

    monkeypatch.setattr(OneWeight, "trainer", Trainer())
    monkeypatch.setitem(schedules.SCHEDULES, "thirds", lambda step, steps, warmup_share: (step + steps + warmup_share) / 3)
    configured = OneWeight("thirds").configure_optimizers()
    rates = []
    for _ in range(3):
        rates.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx([2 * (4 + k + WARMUP_SHARE) / 3 for k in range(3)])
    assert isinstance(OneWeight("constant").configure_optimizers(), torch.optim.SGD)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.floats(0.05, 0.95), st.integers(0, 5))
def test_groups_stay_whole_and_fill_their_share(groups, share, seed):
    group = np.array(groups)
    train_rows, val_rows = split_by_group(group, share, seed)
    assert sorted([*train_rows, *val_rows]) == list(range(len(group)))
    assert not set(group[train_rows]) & set(group[val_rows])
    assert (np.diff(train_rows) > 0).all() and (np.diff(val_rows) > 0).all()
    room = round(len(group) * share) - len(train_rows)
    assert room >= 0
    assert all((group == g).sum() > room for g in set(group[val_rows]))  # no further group would have fitted
    assert [r.tolist() for r in split_by_group(group, share, seed)] == [train_rows.tolist(), val_rows.tolist()]


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.floats(0.05, 0.95), st.integers(0, 5))
def test_at_least_a_share_is_the_first_groups_that_reach_it(groups, share, seed):
    group = np.array(groups)
    first, second = split_by_group(group, share, seed, at_least=True)
    assert sorted([*first, *second]) == list(range(len(group))) and not set(group[first]) & set(group[second])
    names, sizes = np.unique(group, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    taken = int(np.searchsorted(np.cumsum(sizes[order]), share * len(group))) + 1
    assert set(group[first]) == set(names[order[:taken]])


def test_a_split_goes_on_with_the_generator_it_is_given():
    rng = np.random.default_rng(3)
    first, seeded, later = (split_by_group(np.arange(30), 0.5, source)[0].tolist() for source in (rng, 3, rng))
    assert first == seeded != later


def test_single_rows_are_split_at_the_share_and_by_seed():
    parts = [split_by_group(np.arange(50), 0.8, seed) for seed in (0, 1)]
    assert all((len(a), len(b)) == (40, 10) for a, b in parts)
    assert set(parts[0][1]) != set(parts[1][1])


def test_the_split_in_order_is_the_references():
    train_rows, val_rows, test_rows = split_by_order(1876, 0.8)
    assert train_rows.tolist() == list(range(1500)) and val_rows.tolist() == list(range(1500, 1876))
    assert not len(test_rows)


def test_shares_that_floating_point_falls_short_of():
    assert [len(part) for part in split_by_order(100, 0.29)[:2]] == [29, 71]
    assert len(split_by_group(np.arange(3), 0.5, 0)[0]) == 2


SETTINGS = {"muon_lr": 0.1, "lr": 0.1, "betas": (0.9, 0.98), "weight_decay": 0.05, "muon_weight_decay": 0.0}


def convolution(*shape: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(shape).to(memory_format=torch.channels_last))


def test_the_other_weights_go_to_adamw():
    torch.manual_seed(0)
    mine, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    both = MuonAdamW([convolution(4, 4, 3, 3)], [mine], **SETTINGS)
    adamw = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.98), weight_decay=0.05)
    for _ in range(5):
        mine.grad = torch.randn(5)
        theirs.grad = mine.grad.clone()
        both.step()
        adamw.step()
    assert mine.equal(theirs)


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (20, 8, 1, 1)])
def test_muon_moves_a_convolution_along_the_nearest_orthogonal_matrix(shape):
    torch.manual_seed(1)
    weight = convolution(*shape)
    before, gradient = weight.detach().clone(), torch.randn(shape)
    optimizer = MuonAdamW([weight], [torch.nn.Parameter(torch.ones(1))], **SETTINGS)
    moved = []
    for scale in (1e-3, 1e3):
        with torch.no_grad():
            weight.copy_(before)
        weight.grad = gradient * scale
        optimizer.step()
        moved.append((before - weight.detach()).flatten(1))
    assert torch.allclose(moved[0], moved[1], atol=5e-3), "whatever the gradient's scale"
    length = 0.1 * math.sqrt(max(1, shape[0] / (shape[1] * shape[2] * shape[3])))
    values = torch.linalg.svdvals(moved[0]) / length
    assert 0.5 < float(values.min()) and float(values.max()) < 1.4
    u, _, v = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    assert float((moved[0] / length * (u @ v)).sum()) / len(values) > 0.7


def test_muon_decays_its_weights():
    weight = torch.nn.Parameter(torch.ones(2, 2, 1, 1))
    weight.grad = torch.zeros(2, 2, 1, 1)
    MuonAdamW([weight], [torch.nn.Parameter(torch.ones(1))], **SETTINGS | {"muon_weight_decay": 0.5}).step()
    assert torch.allclose(weight, torch.full((2, 2, 1, 1), 0.95))


def test_both_halves_go_on_from_their_state():
    def steps(weights: list[torch.nn.Parameter], optimizer: MuonAdamW, seeds: range) -> None:
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            optimizer.zero_grad()
            assert all(w.grad is None for w in weights)
            for w in weights:
                w.grad = torch.randn(w.shape, generator=generator)
            optimizer.step()

    def fresh(values: list[torch.Tensor]) -> tuple[list[torch.nn.Parameter], MuonAdamW]:
        weights = [torch.nn.Parameter(value.clone()) for value in values]
        return weights, MuonAdamW(weights[:1], weights[1:], **SETTINGS)

    torch.manual_seed(2)
    whole, optimizer = fresh([convolution(4, 3, 3, 3).detach(), torch.randn(4)])
    steps(whole, optimizer, range(2))
    for group in optimizer.param_groups:
        group["lr"] = 0.03
    resumed, other = fresh([w.detach() for w in whole])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [group["lr"] for group in other.param_groups] == [0.03, 0.03]
    for weights, one in ((whole, optimizer), (resumed, other)):
        for group in one.param_groups:
            group["lr"] *= 0.5
        steps(weights, one, range(2, 4))
    assert all(a.equal(b) for a, b in zip(whole, resumed, strict=True))


def test_a_convolution_of_another_layout_is_refused():
    with pytest.raises(RuntimeError, match="view"):
        MuonAdamW([torch.nn.Parameter(torch.ones(2, 3, 3, 3))], [torch.nn.Parameter(torch.ones(1))], **SETTINGS)
