from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import replay
from agents.replay import Transition

GAMMA = 0.9
ROWS, N = 7, 3
EXAMPLE = Transition(
    obs=np.zeros(2, np.float32),
    action=np.int32(0),
    reward=np.float32(0),
    terminated=np.bool_(False),
    truncated=np.bool_(False),
    next_obs=np.zeros(2, np.float32),
)

add = jax.jit(replay.add)
sample = jax.jit(replay.sample, static_argnums=2)
update_priorities = jax.jit(replay.update_priorities)


def steps(seed, num_rows, num_envs=N, ends=(0.15, 0.15)):
    """Random rows [T, N]. Observations say where they are from: (t, env); next_obs is (t + 1/2, env), which no row's
    `obs` is."""
    rng = np.random.default_rng(seed)
    t, env = np.meshgrid(np.arange(1, num_rows + 1), np.arange(num_envs), indexing="ij")
    obs = np.stack([t, env], axis=-1).astype(np.float32)
    kind = rng.choice(3, size=t.shape, p=[1 - sum(ends), *ends])
    return Transition(
        obs=obs,
        action=(t * num_envs + env).astype(np.int32),
        reward=rng.normal(size=t.shape).astype(np.float32),
        terminated=kind == 1,
        truncated=kind == 2,
        next_obs=obs + np.array([0.5, 0.0], np.float32),
    )


def row_of(data, rows):
    return jax.tree.map(lambda x: x[rows], data)


def slow_sample(data, t, env, n, newest):
    """(reward, discount, terminated, next_obs) of the n-step return from row t, walking forward."""
    total, weight = 0.0, 1.0
    for u in range(t, min(t + n, newest + 1)):
        total += weight * float(data.reward[u, env])
        weight *= GAMMA
        if data.terminated[u, env] or data.truncated[u, env]:
            break
    over = bool(data.terminated[u, env])
    return total, 0.0 if over else weight, over, data.next_obs[u, env]


def check(got, data, n, newest):
    """Every transition of a sample is what the slow walk says; returns the (t, env) that were drawn."""
    got = jax.tree.map(np.asarray, got)
    for i in range(len(got.reward)):
        t, env = got.obs[i].astype(int) - [1, 0]
        assert max(newest - ROWS + 1, 0) <= t <= newest
        assert got.action[i] == data.action[t, env]
        assert got.index[i] == t % ROWS * N + env
        total, discount, over, next_obs = slow_sample(data, t, env, n, newest)
        assert got.reward[i] == pytest.approx(total, rel=1e-5, abs=1e-5)
        assert got.discount[i] == pytest.approx(discount, rel=1e-5)
        assert got.terminated[i] == over
        np.testing.assert_array_equal(got.next_obs[i], next_obs)
    return {(int(t) - 1, int(env)) for t, env in got.obs}


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize(("n", "at_once"), [(1, 1), (3, 1), (3, 2)])
def test_against_a_slow_walk_while_the_ring_fills_and_wraps(n, at_once, prioritized):
    data = steps(n, 24)
    state = replay.init(EXAMPLE, ROWS * N, N, n, prioritized=prioritized)
    for start in range(0, 24, at_once):
        rows = start if at_once == 1 else slice(start, start + at_once)
        state = add(state, row_of(data, rows))
        newest = start + at_once - 1
        got = sample(state, jax.random.key(start), 128, GAMMA)
        seen = check(got, data, n, newest)
        oldest = max(newest - ROWS + 1, 0)
        # Exactly those that n - 1 rows follow; of too few rows the oldest.
        valid = range(oldest, max(newest - n + 2, oldest + 1))
        assert seen == {(t, env) for t in valid for env in range(N)}
        np.testing.assert_array_equal(got.weight, np.ones(128))
    assert state.size == ROWS
    assert state.head == 24 % ROWS


def test_by_hand():
    """Rewards 1, 2, 4, 8; truncated after the second; terminated after the fourth."""
    flags = np.array([[0, 1, 0, 0], [0, 0, 0, 1]], bool)
    obs = np.arange(4.0, dtype=np.float32)[:, None, None].repeat(2, -1)
    data = Transition(
        obs=obs,
        action=np.arange(4, dtype=np.int32)[:, None],
        reward=np.array([[1.0], [2.0], [4.0], [8.0]], np.float32),
        terminated=flags[1][:, None],
        truncated=flags[0][:, None],
        next_obs=obs + 10,
    )
    state = add(replay.init(EXAMPLE, 4, 1, 2), jax.tree.map(jnp.asarray, data))
    got = sample(state, jax.random.key(0), 64, 0.5)
    expected = {  # action: reward, discount, next_obs
        0: (2.0, 0.25, 11.0),
        1: (2.0, 0.5, 11.0),  # one step, bootstrapped from the last observation of its episode
        2: (8.0, 0.0, 13.0),
    }
    assert set(np.unique(got.action)) == set(expected)
    for i, action in enumerate(np.asarray(got.action)):
        assert (got.reward[i], got.discount[i], got.next_obs[i, 0]) == expected[action]


@pytest.mark.parametrize("prioritized", [False, True])
def test_few_rows_are_never_read_beyond(prioritized):
    """One row, n = 3: a one-step sample of it. Unwritten rows would be zeros."""
    data = steps(0, 1, ends=(0.0, 0.0))
    state = add(replay.init(EXAMPLE, ROWS * N, N, 3, prioritized=prioritized), row_of(data, 0))
    got = sample(state, jax.random.key(0), 32, GAMMA)
    assert check(got, data, 3, newest=0) == {(0, env) for env in range(N)}
    np.testing.assert_allclose(got.discount, GAMMA, rtol=1e-6)


def full(n=1, *, prioritized=False, rows=ROWS, seed=0):
    state = replay.init(EXAMPLE, rows * N, N, n, prioritized=prioritized)
    for t in range(rows + 2):
        state = add(state, row_of(steps(seed, rows + 2), t))
    return state


def test_uniform_draws_are_uniform():
    """Chi-square over the places that may be drawn: it has mean k - 1 and variance 2 (k - 1)."""
    n, draws = 3, 20_000
    index = np.asarray(sample(full(n), jax.random.key(1), draws, GAMMA).index)
    counts = np.bincount(index, minlength=ROWS * N)
    counts, places = counts[counts > 0], (ROWS - n + 1) * N
    assert counts.size == places
    chi_square = np.sum((counts - draws / places) ** 2) / (draws / places)
    assert abs(chi_square - (places - 1)) < 4 * np.sqrt(2 * (places - 1))


def test_priorities_decide_frequencies_and_weights():
    alpha, beta, draws = 0.7, 0.5, 20_000
    state = full(2, prioritized=True)
    places = np.unique(sample(state, jax.random.key(0), 512, GAMMA).index)
    error = np.random.default_rng(0).normal(size=places.size).astype(np.float32)
    state = update_priorities(state, jnp.asarray(places), jnp.asarray(error), alpha)
    got = sample(state, jax.random.key(1), draws, GAMMA, beta)

    probability = (np.abs(error) + 1e-6) ** alpha
    probability /= probability.sum()
    share = np.bincount(np.asarray(got.index), minlength=ROWS * N)[places] / draws
    np.testing.assert_allclose(share, probability, atol=2 / draws)
    weight = (places.size * probability) ** -beta
    weight /= weight[share > 0].max()
    expected = dict(zip(places, weight, strict=True))
    np.testing.assert_allclose(got.weight, [expected[i] for i in np.asarray(got.index)], rtol=1e-4)


def test_new_transitions_get_the_largest_priority():
    state = full(2, prioritized=True)
    index = sample(state, jax.random.key(0), 64, GAMMA).index
    state = update_priorities(state, index, jnp.full(64, 4.0), 0.5)
    state = update_priorities(state, index, jnp.full(64, 1.0), 0.5)
    assert state.priorities.largest == pytest.approx(2.0, rel=1e-5)
    state = add(state, row_of(steps(1, 1), 0))
    leaves = np.asarray(state.priorities.tree)[-32:].reshape(-1)[: ROWS * N].reshape(ROWS, N)
    newest = int(state.head - 1) % ROWS
    np.testing.assert_allclose(leaves[newest], 0.0)  # not followed by another row yet
    np.testing.assert_allclose(leaves[newest - 1], 2.0, rtol=1e-5)
    np.testing.assert_allclose(leaves[newest - 2], 1.0, rtol=1e-5)


def test_late_priorities_do_not_revive_what_cannot_be_drawn():
    state = full(3, prioritized=True)
    every = jnp.arange(ROWS * N)
    state = update_priorities(state, every, jnp.full(ROWS * N, 7.0))
    got = sample(state, jax.random.key(0), 512, GAMMA)
    assert np.unique(got.index).size == (ROWS - 2) * N


@pytest.mark.parametrize("prioritized", [False, True])
def test_vmapped_equals_single(prioritized):
    def run(key, data):
        state = replay.init(EXAMPLE, ROWS * N, N, 2, prioritized=prioritized)

        def body(state, inputs):
            key, row = inputs
            state = replay.add(state, row)
            got = replay.sample(state, key, 16, GAMMA)
            if prioritized:
                state = replay.update_priorities(state, got.index, got.reward)
            return state, got

        return jax.lax.scan(body, state, (jax.random.split(key, 10), data))

    data = [steps(seed, 10) for seed in range(2)]
    keys = jax.random.split(jax.random.key(0), 2)
    together = jax.jit(jax.vmap(run))(keys, jax.tree.map(lambda *x: np.stack(x), *data))
    together, single = jax.tree.map(np.asarray, together), jax.jit(run)
    for i in range(2):
        alone = jax.tree.map(np.asarray, single(keys[i], data[i]))
        for a, b in zip(*map(jax.tree.leaves, (together, alone)), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6)


PIXELS = Transition(
    obs={"image": jax.ShapeDtypeStruct((8, 8, 1), jnp.uint8), "goal": np.zeros(3, np.float32)},
    action=jax.ShapeDtypeStruct((2,), jnp.float32),
    reward=jax.ShapeDtypeStruct((), jnp.float32),
    terminated=jax.ShapeDtypeStruct((), jnp.bool_),
    truncated=jax.ShapeDtypeStruct((), jnp.bool_),
    next_obs={"image": jax.ShapeDtypeStruct((8, 8, 1), jnp.uint8), "goal": np.zeros(3, np.float32)},
)


def test_trees_of_any_dtype_and_the_bytes_they_take():
    assert replay.nbytes(PIXELS, 1000, 4) == 1000 * (2 * (64 + 12) + 8 + 4 + 2) + 8
    state = replay.init(PIXELS, 10, 2, prioritized=True)
    actual = sum(x.nbytes for x in jax.tree.leaves(state))
    assert replay.nbytes(PIXELS, 10, 2, prioritized=True) == actual
    row = jax.tree.map(lambda x: np.full((2, *x.shape), 7).astype(x.dtype), PIXELS)
    got = sample(add(state, row), jax.random.key(0), 3, GAMMA)
    assert got.obs["image"].dtype == jnp.uint8
    assert got.obs["image"].shape == (3, 8, 8, 1)
    assert (got.next_obs["image"] == 7).all()


def test_capacity_is_rounded_down_to_whole_rows():
    assert replay.init(EXAMPLE, 10, 3).storage.reward.shape == (3, 3)


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("seeds", [None, 2])
def test_a_loop_that_carries_the_buffer_copies_neither_it_nor_the_tree(seeds, prioritized):
    """The compiled program has room for its buffer, donated, and for next to nothing else."""
    capacity = 50_000
    make = partial(replay.init, EXAMPLE, capacity, N, 3, prioritized=prioritized)

    def run(state, key, data):
        def body(state, inputs):
            key, row = inputs
            state = replay.add(state, row)
            got = replay.sample(state, key, 8, GAMMA)
            if prioritized:
                state = replay.update_priorities(state, got.index, got.reward)
            return state, jnp.sum(got.obs) + jnp.sum(got.next_obs)

        return jax.lax.scan(body, state, (jax.random.split(key, 4), data))

    arguments = jax.eval_shape(make), jax.random.key(0), jax.tree.map(jnp.asarray, steps(0, 4))
    if seeds:
        run = jax.vmap(run)
        arguments = jax.eval_shape(
            lambda *x: jax.tree.map(lambda leaf: jnp.stack([leaf] * seeds), x), *arguments
        )
    memory = jax.jit(run, donate_argnums=0).lower(*arguments).compile().memory_analysis()
    bytes_held = replay.nbytes(EXAMPLE, capacity, N, prioritized=prioritized) * (seeds or 1)
    assert memory.alias_size_in_bytes >= bytes_held
    # The smallest big leaf, one flag of each transition, takes `capacity` bytes.
    assert memory.temp_size_in_bytes < capacity / 2


def test_bad_arguments():
    with pytest.raises(ValueError, match="capacity 8 is 2 rows of 3"):
        replay.init(EXAMPLE, 8, 3, 3)
    with pytest.raises(ValueError, match="n must be at least 1"):
        replay.init(EXAMPLE, 8, 1, 0)
    state = replay.init(EXAMPLE, ROWS * N, N, 3)
    with pytest.raises(ValueError, match="batch_size"):
        replay.sample(state, jax.random.key(0), 0, GAMMA)
    with pytest.raises(ValueError, match="no priorities"):
        replay.update_priorities(state, jnp.zeros(1, int), jnp.zeros(1))
    data = jax.tree.map(jnp.asarray, steps(0, ROWS + 1))
    with pytest.raises(ValueError, match="takes at most 7"):
        replay.add(state, data)
    prioritized = replay.init(EXAMPLE, ROWS * N, N, 3, prioritized=True)
    with pytest.raises(ValueError, match="takes at most 5"):
        replay.add(prioritized, row_of(data, slice(6)))
    row = row_of(data, 0)
    with pytest.raises(ValueError, match="got int32"):
        replay.add(state, row._replace(reward=row.reward.astype(int)))
    with pytest.raises(ValueError, match="the buffer's rows are float32"):
        replay.add(state, jax.tree.map(lambda x: x[:2], row))
