import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.tokens.transformer import TransformerConfig, num_parameters, token_model

CONFIG = TransformerConfig(vocabulary=13)
NETWORK = token_model(CONFIG, critic=True)


@pytest.fixture(scope="module")
def params():
    return jax.jit(NETWORK.init)(jax.random.key(0))


def spread(path, shape):
    """Standard deviation of a matrix: 1 / sqrt(inputs); an embedding's inputs are what the head makes logits of."""
    if "critic" in path and "head" in path:
        return 0.0
    return shape[-1 if "embedding" in path else 0] ** -0.5


def test_matrices_start_normal_and_scales_at_one(params):
    matrices = []
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        if x.ndim == 1:
            np.testing.assert_array_equal(x, 1.0)
            continue
        expected = spread(jax.tree_util.keystr(path), x.shape)
        assert np.std(x) == pytest.approx(expected, rel=5 / np.sqrt(2 * x.size))
        assert np.mean(x) == pytest.approx(0, abs=5 * expected / np.sqrt(x.size))
        if expected:
            matrices.append(np.ravel(x) / expected)
    drawn = np.concatenate(matrices)
    assert len(np.unique(drawn)) > 0.98 * len(drawn)  # no number serves twice, but by chance
    assert num_parameters(params) > len(drawn) > 2 * 100_000


def test_seeds_side_by_side_start_as_each_alone(params):
    together = jax.jit(jax.vmap(NETWORK.init))(jax.vmap(jax.random.key)(jnp.arange(2)))
    for both, alone in zip(jax.tree.leaves(together), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(both[0], alone, rtol=1e-6)
        assert both.ndim == 2 or not alone.any() or (both[0] != both[1]).any()


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_counted_before_they_are_made(tied):
    config = TransformerConfig(
        vocabulary=7, layers=3, width=32, heads=4, kv_heads=2, mlp_width=40, tied=tied
    )
    made = jax.eval_shape(token_model(config).init, jax.random.key(0))
    assert config.parameters == num_parameters(made)
