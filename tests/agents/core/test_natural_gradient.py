import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from agents.core import natural_gradient as ng
from agents.distributions import Categorical, Normal

BATCH, INPUTS, HIDDEN, ACTIONS = 7, 3, 4, 3
OBS = jax.random.normal(jax.random.key(0), (BATCH, INPUTS))


def init(key):
    a, b, c = jax.random.split(key, 3)
    return {
        "hidden": jax.random.normal(a, (INPUTS, HIDDEN)),
        "out": jax.random.normal(b, (HIDDEN, ACTIONS)),
        "log_std": 0.3 * jax.random.normal(c, (ACTIONS,)),
    }


def categorical(params, obs=OBS):
    return Categorical(jnp.tanh(obs @ params["hidden"]) @ params["out"])


def normal(params, obs=OBS):
    return Normal(jnp.tanh(obs @ params["hidden"]) @ params["out"], params["log_std"])


def mean_kl(policy, old_params):
    old = jax.lax.stop_gradient(policy(old_params))
    return lambda params: jnp.mean(old.kl(policy(params)))


def flat(tree):
    return jax.flatten_util.ravel_pytree(tree)[0]


def explicit_fisher(policy, params):
    """The Hessian of the KL, entry by entry."""
    vector, unravel = jax.flatten_util.ravel_pytree(params)
    kl = mean_kl(policy, params)
    return jax.hessian(lambda v: kl(unravel(v)))(vector)


def matrix(product, like):
    """The matrix of a linear function of trees: its images of the unit vectors."""
    vector, unravel = jax.flatten_util.ravel_pytree(like)
    return jax.vmap(lambda v: flat(product(unravel(v))))(jnp.eye(vector.size)).T


@pytest.mark.parametrize("policy", [pytest.param(categorical, marks=pytest.mark.slow), normal])
@pytest.mark.slow
def test_fisher_vector_product_is_the_hessian_of_the_kl(policy):
    params = init(jax.random.key(1))
    product = ng.fisher_vector_product(mean_kl(policy, params), params, 0.1)
    got, expected = matrix(product, params), explicit_fisher(policy, params)
    np.testing.assert_allclose(got, expected + 0.1 * np.eye(len(expected)), atol=1e-5)


def test_fisher_vector_product_is_the_expected_outer_product_of_scores():
    """F = E_s sum_a pi(a|s) grad log pi grad log pi^T, the definition."""
    params = init(jax.random.key(2))
    log_pi = jax.jacobian(lambda p: jax.nn.log_softmax(categorical(p).logits).T)(params)
    score = jax.vmap(jax.vmap(flat))(log_pi)  # [A, B, P]
    pi = jax.nn.softmax(categorical(params).logits).T  # [A, B]
    expected = jnp.einsum("ab,abi,abj->ij", pi, score, score) / BATCH
    product = ng.fisher_vector_product(mean_kl(categorical, params), params)
    np.testing.assert_allclose(matrix(product, params), expected, atol=1e-5)


def positive_definite(seed, size=12, smallest=0.1):
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    a = basis @ np.diag(np.linspace(smallest, 1.0, size)) @ basis.T
    return a.astype(np.float32), rng.normal(size=size).astype(np.float32)


def test_conjugate_gradient_against_numpy():
    a, b = positive_definite(0)
    x, residual = ng.conjugate_gradient(lambda v: jnp.asarray(a) @ v, jnp.asarray(b), 30, 1e-6)
    np.testing.assert_allclose(x, np.linalg.solve(a, b), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(residual, b - a @ x, atol=1e-5)


def test_conjugate_gradient_is_exact_after_as_many_steps_as_eigenvalues():
    a = jnp.diag(jnp.array([1.0, 1.0, 2.0, 2.0, 5.0]))
    b = jnp.arange(1.0, 6.0)
    x, _ = ng.conjugate_gradient(lambda v: a @ v, b, 3, 0.0)
    np.testing.assert_allclose(x, b / jnp.diag(a), rtol=1e-5)
    x, _ = ng.conjugate_gradient(lambda v: a @ v, b, 2, 0.0)
    assert np.abs(x - b / jnp.diag(a)).max() > 1e-2


def test_conjugate_gradient_stops_at_the_tolerance():
    a, b = (jnp.asarray(x) for x in positive_definite(1))
    loose, residual = ng.conjugate_gradient(lambda v: a @ v, b, 50, 0.1)
    norm = jnp.linalg.norm
    assert 1e-4 * norm(b) < norm(residual) <= 0.1 * norm(b)
    again, _ = ng.conjugate_gradient(lambda v: a @ v, b, 51, 0.1)
    np.testing.assert_array_equal(loose, again)


@pytest.mark.parametrize("b", [0.0, np.nan])
def test_conjugate_gradient_of_nothing_is_nothing(b):
    x, _ = ng.conjugate_gradient(lambda v: 2.0 * v, jnp.full(3, b), 5, 0.0)
    np.testing.assert_array_equal(x, np.zeros(3))


def test_conjugate_gradient_of_a_semidefinite_matrix_stays_finite():
    a = jnp.diag(jnp.array([1.0, 0.0]))
    x, _ = ng.conjugate_gradient(lambda v: a @ v, jnp.array([0.0, 1.0]), 5, 0.0)
    np.testing.assert_array_equal(x, np.zeros(2))


def test_conjugate_gradient_on_trees_vmapped_equals_single():
    def solve(a, b):
        tree = {"x": b[:5], "y": b[5:].reshape(1, 7)}

        def product(v):
            image = a @ flat(v)
            return {"x": image[:5], "y": image[5:].reshape(1, 7)}

        return flat(ng.conjugate_gradient(product, tree, 8)[0])

    a, b = (jnp.stack(x) for x in zip(*[positive_definite(i) for i in range(3)], strict=True))
    # One seed is done at once; it must neither stop the others nor be disturbed by them.
    b = b.at[1].set(0.0)
    together = jax.jit(jax.vmap(solve))(a, b)
    for i in range(3):
        np.testing.assert_allclose(together[i], solve(a[i], b[i]), rtol=1e-4, atol=1e-5)


def test_step_size_by_hand():
    x, product_x = {"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([2.0, 3.0])}  # x^T F x = 8
    assert ng.natural_step_size(x, product_x, 0.01) == pytest.approx(0.05)
    assert ng.natural_step_size(x, jax.tree.map(jnp.zeros_like, x), 0.01) == 0


def natural_step(params, advantage, actions, max_kl):
    """One whole step of TRPO: (step, evaluate, kl)."""
    old_logp = categorical(params).log_prob(actions)
    kl = mean_kl(categorical, params)

    def loss(p):
        return -jnp.mean(jnp.exp(categorical(p).log_prob(actions) - old_logp) * advantage)

    gradient = jax.tree.map(jnp.negative, jax.grad(loss)(params))
    product = ng.fisher_vector_product(kl, params, 1e-3)
    x, _ = ng.conjugate_gradient(product, gradient, 20)
    size = ng.natural_step_size(x, product(x), max_kl)
    return jax.tree.map(lambda v: size * v, x), lambda p: (loss(p), kl(p)), gradient


def problem(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    advantage = jax.random.normal(keys[0], (BATCH,))
    actions = jax.random.randint(keys[1], (BATCH,), 0, ACTIONS)
    return init(keys[2]), advantage, actions


def test_a_small_natural_step_has_the_kl_it_was_given():
    params, advantage, actions = problem(3)
    step, evaluate, gradient = natural_step(params, advantage, actions, 1e-4)
    old_loss, _ = evaluate(params)
    loss, kl = evaluate(jax.tree.map(jnp.add, params, step))
    # The damped product makes the step a little shorter; the rest is the third order of the KL.
    assert 0.8e-4 < kl < 1.05e-4
    assert old_loss - loss == pytest.approx(float(flat(gradient) @ flat(step)), rel=0.1)


def test_natural_direction_is_the_steepest_in_the_fisher_metric():
    """No other direction of the same quadratic KL gains more, to first order."""
    params, advantage, actions = problem(4)
    step, _, gradient = natural_step(params, advantage, actions, 1e-4)
    fisher = explicit_fisher(categorical, params) + 1e-3 * np.eye(flat(params).size)
    others = jax.random.normal(jax.random.key(5), (1000, flat(params).size))
    size = jnp.sqrt(2e-4 / jnp.einsum("si,ij,sj->s", others, fisher, others))
    assert (others @ flat(gradient) * size).max() < flat(gradient) @ flat(step)
    expected = np.linalg.solve(fisher, flat(gradient))
    cosine = expected @ flat(step) / np.linalg.norm(expected) / np.linalg.norm(flat(step))
    assert cosine > 0.9999


@pytest.mark.parametrize("max_kl", [0.01, 1.0, 100.0])
def test_line_search_ends_inside_the_trust_region_and_better(max_kl):
    params, advantage, actions = problem(6)
    step, evaluate, _ = natural_step(params, advantage, actions, max_kl)
    found = jax.jit(lambda p, s: ng.backtracking_line_search(evaluate, p, s, max_kl))(params, step)
    assert found.success
    loss, kl = evaluate(found.params)
    assert loss < evaluate(params)[0]
    assert kl <= max_kl


def parabola(x):
    """Loss (x - 1)^2, KL x^2 / 2."""
    return jnp.square(x - 1.0), 0.5 * jnp.square(x)


@pytest.mark.parametrize(
    ("step", "max_kl", "fraction"),
    [
        (1.0, 10.0, 1.0),  # at once
        (8.0, 10.0, 0.125),  # 8, 4 and 2 are not better than 0 (2 is as good); 1 is
        (1.0, 0.04, 0.25),  # 1 and 0.5 are outside, 0.25 is inside
        (8.0, 0.02, 0.0),  # 0.5 is better but outside; no trial is left
        (-1.0, 10.0, 0.0),  # always worse
        (np.nan, 10.0, 0.0),
        (np.inf, 10.0, 0.0),
    ],
)
def test_line_search_takes_the_first_acceptable_fraction(step, max_kl, fraction):
    found = ng.backtracking_line_search(
        lambda p: parabola(p["x"]), {"x": jnp.array(0.0)}, {"x": jnp.array(step)}, max_kl, trials=5
    )
    assert found.fraction == fraction
    assert found.success == (fraction > 0)
    assert found.params["x"] == (fraction * step if fraction else 0.0)


def test_line_search_refuses_nan_and_goes_on():
    def evaluate(x):
        return jnp.where(x > 0.6, jnp.nan, -x), jnp.where(x > 0.3, jnp.nan, 0.0)

    found = ng.backtracking_line_search(evaluate, jnp.array(0.0), jnp.array(1.0), 1.0)
    assert found.fraction == 0.25


def test_line_search_vmapped_equals_single():
    steps = jnp.array([1.0, 8.0, -1.0, 3.0])

    def search(step):
        return ng.backtracking_line_search(parabola, jnp.array(0.0), step, 0.5)

    together = jax.vmap(search)(steps)
    for i, step in enumerate(steps):
        for a, b in zip(together, search(step), strict=True):
            assert a[i] == b
    assert list(together.success) == [True, True, False, True]


def test_whole_step_vmapped_equals_single():
    def whole(params, advantage, actions):
        step, evaluate, _ = natural_step(params, advantage, actions, 0.01)
        return ng.backtracking_line_search(evaluate, params, step, 0.01)

    problems = [problem(seed) for seed in (7, 8)]
    together = jax.jit(jax.vmap(whole))(*jax.tree.map(lambda *x: jnp.stack(x), *problems))
    single = jax.jit(whole)
    for i, one in enumerate(problems):
        alone = single(*one)
        assert alone.fraction == together.fraction[i]
        got = flat(jax.tree.map(lambda x, i=i: x[i], together.params))
        np.testing.assert_allclose(got, flat(alone.params), atol=5e-4)


def test_bad_arguments():
    with pytest.raises(ValueError, match="iterations"):
        ng.conjugate_gradient(lambda v: v, jnp.ones(2), 0)
    for options in ({"trials": 0}, {"shrink": 1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            ng.backtracking_line_search(parabola, jnp.zeros(()), jnp.ones(()), 1.0, **options)
