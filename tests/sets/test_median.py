"""The sampler draws what appendix D.1 says and labels it rightly."""

import pytest
import torch

from experiments.median import DISTRIBUTIONS, SET_SIZE, labelled, sample, scores

DRAWS = 200_000
# Mean, variance and median of each. Gamma of shape 0.5 and scale 0.2: mean 0.5 * 0.2, variance
# 0.5 * 0.2^2, median 0.1 * 0.6745^2. With shape and scale swapped they would be 0.1, 0.05, 0.0005.
MOMENTS = {
    "uniform": (0.5, 1 / 12, 0.5),
    "gamma": (0.1, 0.02, 0.0455),
    "normal": (0.5, 0.16, 0.5),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_moments(name):
    values = DISTRIBUTIONS[name]((DRAWS,), generator=generator())
    mean, variance, median = MOMENTS[name]
    assert values.mean().item() == pytest.approx(mean, abs=5 * (variance / DRAWS) ** 0.5)
    assert values.var().item() == pytest.approx(variance, rel=0.03)  # gamma's has an error of 0.9 %
    assert values.median().item() == pytest.approx(median, abs=0.005)


def test_gamma_has_the_distribution_of_torchs():
    torch.manual_seed(0)
    reference = torch.distributions.Gamma(0.5, 1 / 0.2).sample((DRAWS,)).sort().values
    ours = DISTRIBUTIONS["gamma"]((DRAWS,), generator=generator()).sort().values
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]) * DRAWS
    torch.testing.assert_close(ours[levels.long()], reference[levels.long()], rtol=0.05, atol=1e-4)


def test_each_set_comes_from_one_distribution_and_all_occur_equally():
    values = sample("train", 6000, generator()).elements.view(6000, SET_SIZE)
    negative = (values < 0).any(dim=1)  # normal: 10.6 % of values, so every set but 1 in 70,000
    within = (values >= 0).all(dim=1) & (values < 1).all(dim=1)
    small = within & (values.mean(dim=1) < 0.3)
    assert negative.float().mean().item() == pytest.approx(1 / 3, abs=0.03)
    assert (within & ~small).float().mean().item() == pytest.approx(1 / 3, abs=0.03)
    # what is left is gamma; some of its sets hold a value above 1
    assert (~negative & (~within | small)).float().mean().item() == pytest.approx(1 / 3, abs=0.03)


def test_the_label_is_the_median_of_each_set():
    rows = torch.tensor([[4.0, 1.0, 2.0, 10.0], [0.0, 0.0, 1.0, 1.0]])
    sets = labelled(rows)
    torch.testing.assert_close(sets.labels, torch.tensor([3.0, 0.5]))
    assert sets.elements.squeeze(1).tolist() == rows.flatten().tolist()
    assert sets.members.tolist() == [0] * 4 + [1] * 4


def test_the_generator_decides_everything():
    values = [sample("train", 5, generator(seed)).elements for seed in (1, 1, 2)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_the_error_is_the_mean_square():
    assert scores(torch.tensor([1.1, 2.3]), torch.tensor([1.0, 2.0])) == pytest.approx(
        {"mse": 0.05}, rel=1e-5
    )
