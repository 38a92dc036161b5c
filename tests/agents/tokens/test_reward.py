import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
from agents.tokens.reward import Reward
from envs.tokens import make_tokens
from tests.agents.tokens.small import first_rollout

SMALL = {
    "total_steps": 10_000,
    "num_responses": 16,
    "imitation_steps": 3,
    "imitation_responses": 16,
    "layers": 1,
    "width": 16,
    "heads": 2,
    "kv_heads": 1,
    "mlp_width": 16,
}
RESPONSES = jnp.array([[5, 6, 7], [5, 1, 0], [1, 0, 0]])
LENGTHS = jnp.array([3, 2, 1])
PROMPTS = jnp.zeros((3, 2), jnp.int32)


def learner(name, reward=None, task="sort-3", **changes):
    algorithm = agents.TOKEN_ALGORITHMS[name]
    given = {} if reward is None else {"reward": reward}
    return algorithm(
        algorithm.Config(**{**SMALL, **changes}), make_tokens(task, "process"), **given
    )


@functools.cache
def collected(reward=None, **changes):
    algo = learner("grpo", reward, **changes)
    return algo, *first_rollout(algo)[1]


def first_token(params, prompts, responses, lengths):
    """`params` times the first token, one score of each response."""
    return params * responses[:, 0]


def every_token(params, prompts, responses, lengths):
    """1 for each token, past the end too."""
    return jnp.ones(responses.shape)


def test_a_score_of_a_response_is_paid_at_its_last_token():
    rewards = Reward(first_token, 2.0).of_tokens(PROMPTS, RESPONSES, LENGTHS)
    np.testing.assert_array_equal(rewards, [[0, 0, 10], [0, 10, 0], [2, 0, 0]])
    assert rewards.dtype == jnp.float32


def test_rewards_of_tokens_are_taken_as_they_are_up_to_the_end():
    score = jnp.array([[0.5, -1.0, 2.0], [1.0, 3.0, jnp.nan], [0.7, 9.0, 9.0]])
    rewards = Reward(lambda p, x, y, n: score).of_tokens(PROMPTS, RESPONSES, LENGTHS)
    expected = np.array([[0.5, -1, 2], [1, 3, 0], [0.7, 0, 0]], np.float32)
    np.testing.assert_array_equal(rewards, expected)


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"must score responses \(3,\) or their tokens \(3, 3\)"):
        Reward(lambda p, x, y, n: jnp.ones((3, 1))).of_tokens(PROMPTS, RESPONSES, LENGTHS)


def test_the_reward_is_learnt_from_and_the_verifier_is_logged_beside_it():
    _, plain, verified = collected()
    _, rollout, metrics = collected(Reward(every_token))
    batch = jax.tree.map(np.asarray, rollout.batch)
    np.testing.assert_array_equal(batch.reward, batch.mask)
    assert metrics["train/reward"] == metrics["train/length"]
    assert "train/reward" not in verified
    for name in ("train/return", "train/correct", "train/length"):
        assert metrics[name] == verified[name]
    np.testing.assert_array_equal(rollout.correct, plain.correct)
    np.testing.assert_array_equal(batch.action, plain.batch.action)


def test_the_verifier_itself_as_a_reward_changes_no_number():
    env = make_tokens("sort-3", "process")
    verifier = Reward(lambda params, *written: env.score(*written)[0])
    found = []
    for reward in (None, verifier):
        algo = learner("grpo", reward)
        found.append(first_rollout(algo)[1])
    (rollout, metrics), (same, other) = found
    for a, b in zip(jax.tree.leaves(rollout.batch), jax.tree.leaves(same.batch), strict=True):
        np.testing.assert_array_equal(a, b)
    assert other["train/reward"] == metrics["train/return"]


def test_the_verifier_is_called_once():
    calls = []

    class Counted(type(make_tokens("sort-3"))):
        def score(self, *written):
            calls.append(1)
            return super().score(*written)

    env = make_tokens("sort-3")
    counted = Counted(**{f.name: getattr(env, f.name) for f in dataclasses.fields(env)})
    kind = agents.TOKEN_ALGORITHMS["grpo"]
    for reward in (None, Reward(every_token)):
        calls.clear()
        algo = kind(kind.Config(**SMALL), counted, reward=reward)
        jax.eval_shape(algo.collect, jax.eval_shape(algo.init, jax.random.key(0)))
        assert len(calls) == 1


def test_a_reward_that_is_not_finite_counts_nothing_and_is_reported():
    def broken(params, prompts, responses, lengths):
        return jnp.where(responses[:, 0] % 2 == 0, jnp.nan, 1.0)

    algo, rollout, metrics = collected(Reward(broken))
    batch = jax.tree.map(np.asarray, rollout.batch)
    bad = batch.action[algo.env.prompt_length - 1] % 2 == 0
    assert metrics["train/nonfinite"] == bad.sum() > 0
    np.testing.assert_array_equal(batch.reward.sum(0), np.where(bad, 0.0, 1.0))


def test_penalties_replace_any_reward():
    _, rollout, metrics = collected(Reward(every_token), cut_responses="penalise", cut_score=-0.5)
    total = np.sum(rollout.batch.reward, axis=0)
    assert ((total == -0.5).mean()) == pytest.approx(float(metrics["train/cut"]))


@pytest.mark.parametrize(
    "name",
    [
        "grpo",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("ppo", "reinforce", "rloo", "dr-grpo")),
    ],
)
def test_learners_follow_a_reward_that_the_verifier_does_not_pay(name):
    """On a bandit with three arms, the reward pays for one arm, whatever the prompt says."""
    arm = Reward(lambda params, x, y, n: jnp.where(y[:, 0] == params, 1.0, 0.0), 3)
    changes = {"num_responses": 96, "learning_rate": 0.02, "total_steps": 40 * 96}
    algo = learner(name, arm, "bandit-3", imitation_steps=0, **changes)
    run = jax.jit(lambda k: jax.lax.scan(lambda s, _: algo.step(s), algo.init(k), length=40)[1])
    metrics = run(jax.random.key(1))
    assert metrics["train/reward"][-1] > 0.95
    assert metrics["train/return"][-1] < 0.7  # a third of the prompts ask for that arm
