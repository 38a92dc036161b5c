"""Pairs and the learners from them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
from agents.tokens.generation import Generated
from agents.tokens.pairs import Pairs, corrupted, map_parts, ranked_pairs
from agents.tokens.preference import weighted_mean
from agents.tokens.reward import Reward
from envs.tokens import make_tokens
from envs.tokens.task import EOS, PAD

PREFERENCES = ("dpo", "ipo", "kto", "simpo", "orpo")
SMALL = {
    "total_steps": 10_000,
    "num_responses": 16,
    "num_pairs": 32,
    "imitation_steps": 3,
    "imitation_responses": 16,
    "layers": 1,
    "width": 16,
    "heads": 2,
    "kv_heads": 1,
    "mlp_width": 16,
}


def learner(name, task="sort-3", given=None, **changes):
    algorithm = agents.TOKEN_ALGORITHMS[name]
    env = make_tokens(task, "process")
    return algorithm(algorithm.Config(**{**SMALL, **changes}), env, **(given or {}))


@functools.cache
def started(name="dpo", **changes):
    algo = learner(name, **changes)
    return algo, jax.jit(algo.init)(jax.random.key(0))


def generated(*tokens):
    tokens = jnp.array(tokens)
    return Generated(tokens, jnp.zeros(tokens.shape), jnp.full(len(tokens), tokens.shape[1]))


FIRST, SECOND = generated([2], [3], [4], [5]), generated([6], [7], [8], [9])
PROMPTS = jnp.array([[1], [2], [3], [4]])


def ranked(scores, **noise):
    return ranked_pairs(PROMPTS, FIRST, SECOND, jnp.array(scores), jax.random.key(0), **noise)


def test_the_higher_score_is_chosen_and_ties_weigh_nothing():
    pairs = ranked([[1.0, 0.0, 2.0, jnp.nan], [0.0, 3.0, 2.0, 1.0]])
    assert pairs.chosen[:2, 0].tolist() == [2, 7]
    assert pairs.rejected[:2, 0].tolist() == [6, 3]
    assert pairs.weight.tolist() == [1.0, 1.0, 0.0, 0.0]


def test_labels_by_bradley_terry_and_flips_have_their_probabilities():
    n = 20_000
    first, second = (
        Generated(jnp.full((n, 1), t), jnp.zeros((n, 1)), jnp.ones(n, int)) for t in (2, 3)
    )
    scores = jnp.stack([jnp.zeros(n), jnp.ones(n)])

    def share(**noise):
        pairs = ranked_pairs(
            jnp.ones((n, 1), int), first, second, scores, jax.random.key(1), **noise
        )
        return float(jnp.mean(pairs.chosen == 3))

    assert share(temperature=2.0) == pytest.approx(1 / (1 + np.exp(-0.5)), abs=0.015)
    assert share(flips=0.2) == pytest.approx(0.8, abs=0.015)
    assert share() == 1.0


def test_a_corrupted_response_has_one_other_token_of_the_same_kind():
    responses = jnp.array([[3, 4, 5, EOS], [6, EOS, PAD, PAD]] * 50)
    lengths = jnp.array([4, 2] * 50)
    found, can = corrupted(jax.random.key(0), responses, lengths, 12, EOS)
    assert can.all()
    assert (jnp.sum(found != responses, axis=1) == 1).all()
    new = np.asarray(found)[np.asarray(found != responses)]
    assert set(new.tolist()) <= {3, 4, 5, 6}
    assert len(np.unique(np.argwhere(found != responses)[:, 1])) == 3
    alone, can = corrupted(jax.random.key(0), jnp.array([[3, 3]]), jnp.array([2]), 12, None)
    assert alone.tolist() == [[3, 3]]
    assert not can.any()


def test_parts_are_the_whole():
    rows = jnp.arange(7.0)
    np.testing.assert_array_equal(map_parts(lambda x: x * 2, rows, 3), rows * 2)


def test_a_mean_by_weight_ignores_what_weighs_nothing():
    x, weight = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([1.0, 0.0, 3.0])
    assert weighted_mean(x, weight) == 2.5
    assert weighted_mean(x, jnp.zeros(3)) == 0.0
    gradient = jax.grad(lambda x: weighted_mean(jnp.sqrt(x), weight))(jnp.array([1.0, 4.0, 4.0]))
    np.testing.assert_allclose(gradient, [0.125, 0.0, 0.1875])


def test_the_first_loss_of_dpo_is_log_2_and_its_margin_0():
    algo, state = started(pairs="expert")
    metrics = jax.jit(algo.step)(state)[1]
    assert metrics["loss/preference"] == pytest.approx(np.log(2.0), abs=1e-6)
    assert metrics["rewards/margin"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["frac_pairs"] == 1.0


@pytest.mark.slow
def test_the_set_of_pairs_follows_from_the_key_and_is_ranked_by_the_verifier():
    algo, state = started()
    again = jax.jit(algo.init)(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, state.pairs, again.pairs)
    pairs = state.pairs
    gold = [
        jnp.sum(algo.env.score(pairs.prompts, x, length)[0], axis=1)
        for x, length in (
            (pairs.chosen, pairs.chosen_length),
            (pairs.rejected, pairs.rejected_length),
        )
    ]
    np.testing.assert_array_equal(pairs.weight, gold[0] != gold[1])
    assert (gold[0] >= gold[1]).all()
    assert state.tokens == jnp.sum(pairs.lengths)


@pytest.mark.slow
def test_a_reward_ranks_in_place_of_the_verifier():
    reward = Reward(lambda params, prompts, responses, lengths: -lengths.astype(jnp.float32))
    algo = learner("dpo", given={"reward": reward})
    pairs = jax.jit(algo.init)(jax.random.key(0)).pairs
    trains = pairs.weight > 0
    assert trains.any()
    assert (pairs.chosen_length <= pairs.rejected_length).all()
    np.testing.assert_array_equal(trains, pairs.chosen_length != pairs.rejected_length)


def test_pairs_of_the_expert_are_right_against_wrong():
    algo, state = started(pairs="expert")
    pairs = state.pairs
    assert algo.env.score(pairs.prompts, pairs.chosen, pairs.chosen_length)[1].all()
    assert not algo.env.score(pairs.prompts, pairs.rejected, pairs.rejected_length)[1].any()
    assert pairs.weight.all()


def test_an_epoch_deals_every_pair_once():
    algo, state = started()
    steps = algo.num_pairs // algo.step_pairs
    seen = [
        algo.pair_indices(dataclasses.replace(state, env_steps=i * algo.iteration_steps))
        for i in range(2 * steps)
    ]
    first, second = np.concatenate(seen[:steps]), np.concatenate(seen[steps:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(algo.num_pairs))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("dpo", "kto") else pytest.param(name, marks=pytest.mark.slow)
        for name in PREFERENCES
    ],
)
def test_pairs_of_weight_0_never_train(name):
    """Whatever they hold, the step is the same; and with no other there is no gradient."""
    algo, state = started(name, sft_weight=0.5)
    step = jax.jit(algo.step)
    tie = state.pairs.weight == 0
    assert 0 < tie.sum() < tie.size

    def scrambled(x):
        return jnp.where(tie[:, None], x[:, ::-1], x)

    pairs = state.pairs._replace(rejected=scrambled(state.pairs.rejected))
    if name != "kto":  # its reference point is a mean over all chosen responses
        pairs = pairs._replace(chosen=scrambled(state.pairs.chosen))
    other = step(dataclasses.replace(state, pairs=pairs))[0]
    for a, b in zip(*map(jax.tree.leaves, (step(state)[0].params, other.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    none = state.pairs._replace(weight=jnp.zeros_like(state.pairs.weight))
    after, metrics = step(dataclasses.replace(state, pairs=none))
    assert metrics["grad_norm"] == 0.0
    assert metrics["loss/preference"] == 0.0
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def bandit_pairs(env, rewards, arms=3):
    """Every ordered pair of tokens in every context, weighted by its probability under Bradley-Terry."""
    first, second = (x.ravel() for x in np.meshgrid(*[np.arange(env.vocabulary_size)] * 2))
    first, second = first[first != second], second[first != second]
    weight = 1 / (1 + np.exp(rewards[second] - rewards[first]))
    contexts = np.repeat(np.arange(2, 2 + arms), len(first))
    first, second, weight = (np.tile(x, arms) for x in (first, second, weight))
    ones = jnp.ones(len(first), jnp.int32)
    tokens = (jnp.asarray(x[:, None], jnp.int32) for x in (contexts, first, second))
    return Pairs(*tokens, ones, ones, jnp.asarray(weight, jnp.float32))


def test_dpo_moves_a_bandit_to_its_optimum():
    """ref exp(r / beta), the same in every context."""
    env = make_tokens("bandit-3")
    rewards, beta = np.linspace(0.0, 1.4, env.vocabulary_size), 0.5
    pairs = bandit_pairs(env, rewards)
    changes = {
        **{"pairs": "mine.jsonl", "beta": beta, "num_responses": 2 * len(pairs.weight)},
        **{"imitation_steps": 0, "learning_rate": 0.02, "warmup": 0.0},
        "total_steps": 150 * 2 * len(pairs.weight),
    }
    algo = learner("dpo", "bandit-3", {"pairs": pairs}, **changes)

    @jax.jit
    def run(key):
        state, metrics = jax.lax.scan(lambda s, _: algo.step(s), algo.init(key), length=150)
        prompts = jnp.repeat(jnp.arange(2, 5), env.vocabulary_size)[:, None]
        tokens = jnp.tile(jnp.arange(env.vocabulary_size), 3)[:, None]
        batch = algo.batch(prompts, tokens, jnp.ones(len(tokens), int), jnp.zeros(tokens.shape))
        both = (state.params, state.reference)
        logps = [algo.reference_logp(p, batch.obs, batch.action) for p in both]
        return [x.reshape(3, -1) for x in logps], metrics

    (policy, reference), metrics = run(jax.random.key(0))
    optimum = jax.nn.log_softmax(reference + rewards / beta, axis=1)
    before = np.abs(np.asarray(reference - optimum)).max()
    assert before > 0.8
    np.testing.assert_allclose(policy, optimum, atol=0.05)
    assert metrics["loss/preference"][-1] < metrics["loss/preference"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_responses": 15}, "num_responses must be even"),
        ({"num_responses": 128}, "there are 32 pairs, and num_responses = 128 takes 64"),
        ({"pairs": "mine.txt"}, "pairs must be samples, expert or a file FILE.jsonl"),
        ({"pairs": "expert", "label_flips": 0.1}, "noise of ranked samples"),
        ({"label_flips": 0.5}, "label_flips must be at least 0 and below 0.5"),
        ({"label_smoothing": 0.5}, "label_smoothing must be at least 0 and below 0.5"),
        ({"pairs": "mine.jsonl"}, "needs the argument pairs"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        learner("dpo", **changes)
