"""The executable half of `agents/algorithm.py`: what every algorithm keeps to, whatever it learns by."""

import dataclasses
import functools
import inspect
from typing import get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from agents import ALGORITHMS, OFFLINE_ALGORITHMS, TOKEN_ALGORITHMS
from agents.algorithm import Algorithm, CollectsApart, Learner, LearnsOffline
from tests.agents.offline.small import random_data

SMALL = {
    "total_steps": 512,
    "num_envs": 4,
    "num_steps": 8,
    "num_minibatches": 2,
    "num_epochs": 1,
    "value_epochs": 1,
    "hidden_sizes": (8,),
    "warmup_steps": 16,
    "buffer_size": 64,
    "batch_size": 4,
    "group_size": 2,
    "update_ratio": 0.25,
    "num_responses": 32,
    "width": 8,
    "layers": 1,
    "heads": 2,
    "kv_heads": 1,
    "mlp_width": 8,
    "imitation_steps": 1,
    "imitation_responses": 4,
    "kl_coefficient": 0.1,
    "fisher_fraction": 0.5,
    "num_pairs": 16,
    "segment_length": 2,
    "reward_hidden_sizes": (4,),
    "initial_reward_updates": 2,
    "num_samples": 2,
}
CONTROL_ENV = {  # where a few steps already differ in what they earn
    "grpo": "Pendulum-v1",
    "sac": "Pendulum-v1",
    "td3": "Pendulum-v1",
    "ddpg": "Pendulum-v1",
    "crossq": "Pendulum-v1",
    "xqc": "Pendulum-v1",
    "q-learning": "CliffWalking-v1",
    "sarsa": "CliffWalking-v1",
    "expected-sarsa": "CliffWalking-v1",
    "value-iteration": "FrozenLake-v1",
    "policy-iteration": "FrozenLake-v1",
    "td3-bc": "Pendulum-v1",
}
MAPPED = (
    "ppo",
    "sac",
    "dqn",
    "q-learning",
    "iql",
)  # one of each kind of learner; the others by hand
# The code of another learner, which their settings choose paths of: what takes a compiled step is run by hand.
SAME_CODE = (
    *("ddpg", "crossq", "xqc"),
    *("dr-grpo", "gspo", "cispo", "dapo", "rloo", "reinforce++", "ipo", "kto", "simpo", "orpo"),
)
OF_CONTROL = ALGORITHMS | OFFLINE_ALGORITHMS
CASES = [("control", name) for name in OF_CONTROL] + [("tokens", name) for name in TOKEN_ALGORITHMS]
RUNS = [
    pytest.param(*case, marks=pytest.mark.slow if case[1] in SAME_CODE else ()) for case in CASES
]


def missing(algo: object, contract: type) -> list[str]:
    """Returns one line for each part of the contract that an algorithm lacks."""
    names = [name for name in dir(contract) if not name.startswith("_")]
    names += [name for name in get_type_hints(contract) if name not in names]
    lines = []
    for name in sorted(names):
        if not hasattr(algo, name):
            lines.append(f"{name} is missing")
        elif inspect.isfunction(getattr(contract, name, None)):
            wanted = list(inspect.signature(getattr(contract, name)).parameters)[1:]
            found = list(inspect.signature(getattr(algo, name)).parameters)
            if found != wanted:
                lines.append(f"{name} takes {', '.join(found)}, not {', '.join(wanted)}")
    return lines


def make(domain: str, name: str):
    kind = (OF_CONTROL if domain == "control" else TOKEN_ALGORITHMS)[name]
    fields = {field.name for field in dataclasses.fields(kind.Config)}
    env = CONTROL_ENV.get(name, "CartPole-v1") if domain == "control" else "tokens-bandit"
    return kind(kind.Config(**{k: v for k, v in SMALL.items() if k in fields}), envs.make(env))


def data_of(algo):
    """Returns what the algorithm's `step` takes besides the state."""
    return random_data(algo.env) if isinstance(algo, LearnsOffline) else None


@functools.cache
def ran(domain: str, name: str):
    """The algorithm, its jitted step, its first state, and the states and metrics of three iterations."""
    algo = make(domain, name)
    step = jax.jit(algo.step)
    state = first = jax.jit(algo.init)(jax.random.key(0))
    states, rows = [], []
    data = data_of(algo)
    for _ in range(3):
        state, metrics = step(state, data)
        states.append(state)
        rows.append(metrics)
    return algo, step, first, states, rows


def arrays(tree) -> list[np.ndarray]:
    """Returns the leaves as NumPy arrays, keys by their data."""
    return [
        np.asarray(
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        )
        for x in jax.tree.leaves(tree)
    ]


@pytest.mark.parametrize(("domain", "name"), CASES)
class TestForm:
    def test_nothing_is_missing(self, domain, name):
        algo = make(domain, name)
        assert missing(algo, Algorithm if domain == "control" else Learner) == []
        assert algo.iteration_steps >= 1
        assert algo.warmup_steps >= 0
        assert algo.buffer_bytes() >= 0
        with pytest.raises(dataclasses.FrozenInstanceError):
            algo.config.total_steps = 1

    def test_the_rollout_alone_learns_nothing(self, domain, name):
        """Hands what is learned through untouched: seen in the program, without running it."""
        algo = make(domain, name)
        if not isinstance(algo, CollectsApart):
            pytest.skip("collects and learns step by step")
        state = jax.eval_shape(algo.init, jax.random.key(0))
        leaves, tree = jax.tree.flatten(state)
        learned = jax.tree.leaves(algo.learned(jax.tree.unflatten(tree, range(len(leaves)))))
        program = jax.make_jaxpr(algo.collect_only)(state).jaxpr
        assert learned
        assert all(program.outvars[i] is program.invars[i] for i in learned)


@pytest.mark.parametrize(("domain", "name"), RUNS)
class TestContract:
    def test_metrics_are_scalars_of_the_same_names_and_finite(self, domain, name):
        _, _, _, _, rows = ran(domain, name)
        for row in rows:
            assert row.keys() == rows[0].keys()
            for what, x in row.items():
                assert x.shape == (), what
                assert jnp.issubdtype(x.dtype, jnp.floating), what
                # Means over episodes are NaN where none ended.
                assert jnp.isfinite(x) or what in ("train/return", "train/length"), what

    def test_what_is_learned_changes_and_stays_finite(self, domain, name):
        algo, _, first, states, _ = ran(domain, name)
        before, after = arrays(algo.learned(first)), arrays(algo.learned(states[-1]))
        assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        assert all(np.isfinite(x).all() for x in after if np.issubdtype(x.dtype, np.floating))

    def test_a_state_keeps_its_structure_and_types(self, domain, name):
        _, _, first, states, _ = ran(domain, name)
        assert jax.tree.structure(first) == jax.tree.structure(states[-1])
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(states[-1]), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)

    def test_the_same_state_gives_the_same_numbers_again(self, domain, name):
        """So that a run resumed from a checkpoint goes on as if it had never been stopped."""
        algo, step, _, states, _ = ran(domain, name)
        copy = jax.tree.map(jnp.copy, states[1])
        for a, b in zip(arrays(step(copy, data_of(algo))[0]), arrays(states[2]), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_steps_are_counted(self, domain, name):
        algo, _, first, states, _ = ran(domain, name)
        if name.endswith("-iteration"):
            pytest.skip("no environment is stepped")
        assert first.env_steps == algo.warmup_steps
        assert states[-1].env_steps == algo.warmup_steps + 3 * algo.iteration_steps


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in MAPPED else pytest.mark.slow) for n in OF_CONTROL],
)
def test_a_batch_of_seeds_is_the_seeds_one_by_one(name):
    """Parameters and metrics, of a first step and of one that goes on from it."""
    algo, step, first, states, _ = ran("control", name)
    singles = [first, states[0]]
    together = jax.tree.map(lambda *x: jnp.stack(x), *singles)
    data = data_of(algo)
    mapped, metrics = jax.jit(jax.vmap(algo.step, in_axes=(0, None)))(together, data)
    for i, state in enumerate(singles):
        single, row = step(state, data)
        alone = arrays((algo.learned(single), row))
        for a, b in zip(arrays((algo.learned(mapped), metrics)), alone, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", OF_CONTROL)
def test_acts_on_single_observations_and_on_batches(name):
    algo, _, first, _, _ = ran("control", name)
    space = algo.env.action_space
    obs = algo.env.observation(algo.env.initial(jax.random.key(0)))
    many = jnp.broadcast_to(obs, (2, 3, *obs.shape))

    @jax.jit
    def act(key):
        return [
            (algo.act(first, obs, key, deterministic), algo.act(first, many, key, deterministic))
            for deterministic in (True, False)
        ]

    actions = act(jax.random.key(1))
    for one, batch in actions:
        assert space.contains(np.asarray(one) if one.shape else np.asarray(one)[()])
        assert batch.shape == (2, 3, *one.shape)
    best = np.asarray(actions[0][1])
    np.testing.assert_allclose(best, np.broadcast_to(best[0, 0], best.shape), rtol=1e-5, atol=1e-6)


def test_a_wrong_algorithm_is_told_what_it_lacks():
    class Wrong:
        Config = ALGORITHMS["ppo"].Config
        config = env = None
        iteration_steps = 1

        def init(self, key):
            pass

        def step(self, state):
            pass

        def act(self, state, obs, key, deterministic):
            pass

        def learned(self, state):
            pass

    assert missing(Wrong(), Algorithm) == [
        "buffer_bytes is missing",
        "step takes state, not state, data",
        "warmup_steps is missing",
    ]
