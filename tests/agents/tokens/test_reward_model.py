"""Learned rewards: scores, losses, what training recovers, and rewards made of rewards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.tokens.pairs import Pairs
from agents.tokens.reward import Reward
from agents.tokens.reward_model import (
    RewardModel,
    RewardModelConfig,
    RewardParams,
    StepLabels,
    gives_step_credit,
    step_labels,
)
from agents.tokens.reward_sets import ensemble, verifier_reward, weighted_sum
from agents.tokens.transformer import token_model
from envs.tokens import make_tokens
from envs.tokens.task import EOS, PAD

SMALL = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "mlp_width": 16, "step_pairs": 4}
VOCABULARY = 10
PROMPTS = jnp.array([[2, 3, 4], [5, 6, 7]])
RESPONSES = jnp.array([[8, 9, EOS, PAD], [3, EOS, PAD, PAD]])
LENGTHS = jnp.array([3, 2])


@functools.cache
def drawn(kind="bradley-terry", every_token=True, **changes):
    """A model whose head is not zero."""
    model = RewardModel(
        RewardModelConfig(kind=kind, **SMALL, **changes), VOCABULARY, PAD, every_token
    )
    params = model.start(jax.random.key(0)).params
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return model, jax.tree.unflatten(tree, noise)


def padded(left, right):
    prompts = jnp.pad(PROMPTS, ((0, 0), (left, 0)), constant_values=PAD)
    return prompts, jnp.pad(RESPONSES, ((0, 0), (0, right)), constant_values=PAD), LENGTHS


@pytest.mark.parametrize("kind", [pytest.param("bradley-terry", marks=pytest.mark.slow), "process"])
def test_padding_on_either_side_changes_no_score(kind):
    model, params = drawn(kind)
    score = model.raw_score(params, *padded(0, 0))
    assert abs(score[0] - score[1]) > 1e-3
    for sides in ((3, 0), (0, 2), (1, 4)):
        np.testing.assert_allclose(model.raw_score(params, *padded(*sides)), score, atol=1e-5)


def test_what_follows_the_end_changes_no_score_and_the_last_token_does():
    model, params = drawn()
    score = model.raw_score(params, PROMPTS, RESPONSES, LENGTHS)
    after = RESPONSES.at[0, 3].set(7).at[1, 2].set(4)
    np.testing.assert_allclose(model.raw_score(params, PROMPTS, after, LENGTHS), score, atol=1e-6)
    last = RESPONSES.at[:, :].set(jnp.where(RESPONSES == EOS, 6, RESPONSES))
    assert np.abs(model.raw_score(params, PROMPTS, last, LENGTHS) - score).min() > 1e-3


def some_pairs(margin=None):
    both = jnp.concatenate([RESPONSES, RESPONSES[::-1]])
    prompts = jnp.concatenate([PROMPTS, PROMPTS])
    lengths = jnp.concatenate([LENGTHS, LENGTHS[::-1]])
    return Pairs(prompts, both, both[::-1], lengths, lengths[::-1], jnp.ones(4), margin)


def test_the_first_loss_is_log_2_and_a_margin_raises_it():
    model = RewardModel(RewardModelConfig(**SMALL), VOCABULARY, PAD)
    params = model.start(jax.random.key(0)).params
    assert model.loss(params, some_pairs())[0] == pytest.approx(np.log(2.0), abs=1e-6)
    loss = model.loss(params, some_pairs(jnp.full(4, 2.0)))[0]
    assert loss == pytest.approx(np.log1p(np.exp(2.0)), rel=1e-5)


def test_a_model_begins_with_the_layers_of_a_policy_and_a_head_of_0():
    config = RewardModelConfig(**SMALL)
    model = RewardModel(config, VOCABULARY, PAD)
    policy = token_model(config.transformer(VOCABULARY)).init(jax.random.key(5))["policy"]
    params = model.start(jax.random.key(0), policy).params
    for name in ("embedding", "blocks", "norm"):
        for a, b in zip(*map(jax.tree.leaves, (params[name], policy[name])), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.any(model.raw_score(params, PROMPTS, RESPONSES, LENGTHS))
    wider = RewardModel(RewardModelConfig(**{**SMALL, "width": 32}), VOCABULARY, PAD)
    assert wider.start(jax.random.key(0), policy).params["norm"]["scale"][...].shape == (32,)


def test_a_constant_of_a_prompt_changes_no_loss(monkeypatch):
    model, params = drawn(centre=0.0)
    pairs = some_pairs()
    plain = model.loss(params, pairs)[0]
    shifted = model.raw_score
    monkeypatch.setattr(
        model,
        "raw_score",
        lambda params, prompts, *rest: shifted(params, prompts, *rest) + prompts[:, 0] ** 2.0,
    )
    assert model.loss(params, pairs)[0] == pytest.approx(float(plain), rel=1e-4)


def test_pairs_of_weight_0_never_train():
    model, params = drawn()
    gradient = jax.jit(lambda pairs: jax.grad(lambda p: model.loss(p, pairs)[0])(params))
    pairs = some_pairs()._replace(weight=jnp.array([1.0, 0.0, 1.0, 0.0]))
    other = pairs._replace(chosen=pairs.chosen.at[1::2].set(5))
    for a, b in zip(*map(jax.tree.leaves, (gradient(pairs), gradient(other))), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    none = gradient(pairs._replace(weight=jnp.zeros(4)))
    assert all((x == 0).all() for x in jax.tree.leaves(none))


def test_scores_are_standardised_on_the_samples_and_clipped():
    model, params = drawn()
    whole = model.calibrate(params, PROMPTS, RESPONSES, LENGTHS)
    score = model.score(whole, PROMPTS, RESPONSES, LENGTHS)
    np.testing.assert_allclose([score.mean(), score.std()], [0.0, 1.0], atol=1e-5)
    narrow = RewardParams(params, whole.mean, jnp.asarray(1e-6))
    np.testing.assert_array_equal(np.abs(model.score(narrow, PROMPTS, RESPONSES, LENGTHS)), 10.0)


def test_the_scores_of_a_bandit_are_recovered_up_to_a_constant():
    """Every ordered pair, weighted by its probability under Bradley-Terry: the optimum is the reward itself."""
    tokens = 4
    rewards = jnp.array([0.0, 0.5, 1.5, 2.0])
    first, second = (jnp.asarray(x.ravel()) for x in np.meshgrid(*[np.arange(tokens)] * 2))
    first, second = first[first != second], second[first != second]
    weight = jax.nn.sigmoid(rewards[first] - rewards[second])
    ones = jnp.ones(len(first), jnp.int32)
    pairs = Pairs(ones[:, None], first[:, None] + 2, second[:, None] + 2, ones, ones, weight)
    config = RewardModelConfig(
        **{
            **SMALL,
            "step_pairs": len(first),
            "num_epochs": 200,
            "learning_rate": 0.03,
            "centre": 0.0,
        }
    )
    model = RewardModel(config, VOCABULARY, PAD)

    @jax.jit
    def run(key):
        state = model.start(key)
        state, metrics = jax.lax.scan(lambda s, _: model.step(s, pairs), state, length=200)
        arms = jnp.arange(tokens)[:, None] + 2
        alone = jnp.ones(tokens, jnp.int32)
        return model.raw_score(state.params, alone[:, None], arms, alone), metrics

    scores, metrics = run(jax.random.key(0))
    np.testing.assert_allclose(scores - scores.mean(), rewards - rewards.mean(), atol=0.05)
    assert metrics["loss"][-1] < metrics["loss"][0]


def test_steps_are_judged_by_the_verifier():
    env = make_tokens("sort-3", "process")
    assert gives_step_credit(env)
    assert not gives_step_credit(make_tokens("countdown", "process"))
    prompt = jnp.asarray(env.encode_prompt("3 1 2 ="))[None]
    wrong, length = env.encode_response("1 3 2 <eos>")
    rows = prompt, jnp.asarray(wrong)[None], jnp.array([length])
    labels = step_labels(env, *rows, every_token=True)
    assert labels.right.tolist() == [[True, False, False, False]]
    assert labels.ends.all()
    labels = step_labels(env, *rows, every_token=False)
    assert labels.ends.tolist() == [[False, False, False, True]]
    assert not labels.right.any()


def test_a_process_model_learns_from_every_step_and_scores_by_the_worst():
    model, params = drawn("process")
    responses = jnp.concatenate([RESPONSES, RESPONSES])
    lengths = jnp.concatenate([LENGTHS, LENGTHS])
    ends = jnp.arange(4) < lengths[:, None]
    labels = StepLabels(ends & (jnp.arange(4) < 1), ends)
    pairs = Pairs(PROMPTS, RESPONSES, RESPONSES, LENGTHS, LENGTHS, jnp.zeros(2))
    logits = model.token_scores(params, jnp.concatenate([PROMPTS, PROMPTS]), responses, lengths)
    signs = jnp.where(labels.right, -logits, logits)
    expected = jnp.sum(jnp.where(ends, jnp.log1p(jnp.exp(signs)), 0.0)) / ends.sum()
    assert model.loss(params, pairs, labels)[0] == pytest.approx(float(expected), rel=1e-5)
    worst = jnp.min(jnp.where(ends, jax.nn.sigmoid(logits), 1.0), axis=1)[:2]
    np.testing.assert_allclose(
        model.raw_score(params, PROMPTS, RESPONSES, LENGTHS), worst, rtol=1e-5
    )


def constant(value):
    return Reward(lambda params, prompts, responses, lengths: params * lengths, jnp.asarray(value))


def test_an_ensemble_is_its_worst_member_or_its_mean_less_the_variance():
    rows = PROMPTS, RESPONSES, LENGTHS
    members = [constant(1.0), constant(3.0)]
    worst = ensemble(members)
    np.testing.assert_allclose(worst.score(worst.params, *rows), [3.0, 2.0])
    careful = ensemble(members, "mean-variance", 0.5)
    np.testing.assert_allclose(careful.score(careful.params, *rows), [6 - 4.5, 4 - 2.0])
    with pytest.raises(ValueError, match="at least two members"):
        ensemble(members[:1])


def test_a_sum_is_weighted_token_by_token():
    rows = PROMPTS, RESPONSES, LENGTHS
    total = weighted_sum([(0.5, constant(2.0)), (-1.0, constant(1.0)), (2.0, constant(1.0))])
    rewards = total.of_tokens(*rows)
    np.testing.assert_allclose(rewards, [[0, 0, 6.0, 0], [0, 4.0, 0, 0]])
    env = make_tokens("sort-3", "process")
    prompts = env.prompts(jax.random.key(0), 2)
    solutions, lengths = env.solutions(prompts), jnp.full(2, 4)
    found = verifier_reward(env).of_tokens(prompts, solutions, lengths)
    np.testing.assert_allclose(found, np.full((2, 4), 0.25))


def test_fewer_pairs_than_a_step_takes_are_refused():
    model, _ = drawn()
    with pytest.raises(ValueError, match="there are 3 pairs, and step_pairs = 4"):
        model.total_steps(3)
