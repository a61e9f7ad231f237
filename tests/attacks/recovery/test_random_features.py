import torch

from lit_unlearn.attacks.recovery.random_features import RandomFeatures


def test_products_are_a_gaussian_kernel():
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = RandomFeatures(5, 40_000)(x)
    expected = (-torch.cdist(x, x).square() / (2 * 5)).exp()
    torch.testing.assert_close(z @ z.T, expected, rtol=0, atol=0.03)
    assert z.shape == (8, 40_000)


def test_the_seed_decides():
    x = torch.ones(2, 3)
    assert torch.equal(RandomFeatures(3, 10, seed=4)(x), RandomFeatures(3, 10, seed=4)(x))
    assert not torch.equal(RandomFeatures(3, 10, seed=4)(x), RandomFeatures(3, 10, seed=5)(x))
