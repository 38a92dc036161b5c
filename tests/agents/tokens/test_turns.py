"""Replies of the environment inside responses: attended to, and never learned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import grpo, ppo, reinforce
from agents.batch import Evaluation
from agents.groups import group_targets
from agents.on_policy import gae_targets
from agents.tokens.dpo import DPO, DPOConfig
from agents.tokens.generation import Sampling, generate
from agents.tokens.grpo import TokenGRPO, TokenGRPOConfig
from agents.tokens.policy import PLAIN_GRADIENT
from agents.tokens.ppo import TokenPPO, TokenPPOConfig
from agents.tokens.rollout import response_batch
from agents.tokens.turns import next_own_values, onto_own
from envs.tokens import make_tokens
from envs.tokens.games import GuessNumber
from envs.tokens.task import EOS, PAD
from tests.agents.tokens.small import SMALL

ENV = make_tokens(GuessNumber(largest=6, limit=4), "process")
SIZES = {**SMALL, "imitation_steps": 0, "num_minibatches": 2}
P = ENV.prompt_length


@pytest.fixture(scope="module")
def learner():
    return TokenPPO(TokenPPOConfig(**SIZES), ENV)


@pytest.fixture(scope="module")
def params(learner):
    return jax.jit(learner.network.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def written(learner, params):
    """Prompts, and responses to them by the cached loop and by the one that computes everything again; top-k leaves
    out most tokens."""
    prompts = ENV.prompts(jax.random.key(1), 8)

    def both(params):
        model = learner.network.module(params).policy
        return [
            generate(
                model,
                prompts,
                jax.random.key(2),
                ENV.response_length,
                Sampling(top_k=7),
                pad=PAD,
                stop=EOS,
                cached=cached,
                repeats=2,
                turns=ENV.turns,
            )
            for cached in (True, False)
        ]

    return jnp.repeat(prompts, 2, axis=0), *jax.jit(both)(params)


@pytest.fixture(scope="module")
def batch(learner, params, written):
    prompts, found, _ = written
    rewards, _ = ENV.score(prompts, found.tokens, found.length)
    batch = learner.batch(prompts, found.tokens, found.length, rewards)
    value = learner.network.module(params).value(batch.obs["token"].T, batch.obs["position"].T)
    evaluation = jax.jit(learner.evaluate)(params, batch.obs, batch.action)
    return batch._replace(
        logp=evaluation.logp,
        value=value.T,
        next_value=next_own_values(value.T, batch.mask),
        ref_logp=evaluation.logp - 0.1,
    )


class TestGeneration:
    def test_with_and_without_cache(self, written):
        _, cached, whole = written
        for name in ("tokens", "length", "own", "allowed"):
            np.testing.assert_array_equal(getattr(cached, name), getattr(whole, name))
        np.testing.assert_allclose(cached.logp, whole.logp, atol=1e-5)

    def test_the_mask_is_exact(self, written):
        prompts, found, _ = written
        own = np.asarray(ENV.own_tokens(prompts, found.tokens, found.length))
        np.testing.assert_array_equal(found.own, own)
        inside = np.arange(ENV.response_length) < np.asarray(found.length)[:, None]
        assert (inside & ~own).sum() > 10
        assert (own & inside).sum() > 16
        assert not (own & ~inside).any()
        # What was inserted is what the game says.
        assert jax.vmap(ENV.task.verify)(prompts, found.tokens, found.length).well_formed.any()
        np.testing.assert_array_equal(found.written, own.sum(axis=1))
        assert not np.asarray(found.logp)[~own].any()
        assert np.asarray(found.allowed)[~own].all()
        chosen = np.take_along_axis(
            np.asarray(found.allowed), np.asarray(found.tokens)[..., None], axis=-1
        )[..., 0]
        assert chosen.all()

    def test_log_probs_of_the_policy_s_tokens_are_those_of_the_learner(self, written, learner):
        config = dataclasses.replace(learner.config, top_k=7)
        same = TokenPPO(config, ENV)
        prompts, found, _ = written
        batch = same.batch(prompts, found.tokens, found.length, jnp.zeros(found.tokens.shape))
        params = jax.jit(same.network.init)(jax.random.key(0))
        logp = jax.jit(same.evaluate)(params, batch.obs, batch.action).logp[P - 1 :].T
        own = np.asarray(found.own)
        np.testing.assert_allclose(np.asarray(logp)[own], np.asarray(found.logp)[own], atol=1e-5)


class TestBatch:
    def test_what_a_reply_earns_goes_to_the_token_before_it(self):
        own = jnp.array(
            [[True, False, True, True, False, False], [False, True, False] + 3 * [True]]
        )
        rewards = jnp.array([[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]] * 2)
        np.testing.assert_allclose(
            onto_own(rewards, own), [[3, 0, 4, 56, 0, 0], [0, 6, 0, 8, 16, 32]]
        )

    def test_the_next_state_is_the_one_in_which_the_policy_chooses_next(self):
        mask = jnp.array([[False, True, False, False, True, True, False]]).T
        value = jnp.array([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]).T
        found = np.asarray(next_own_values(value, mask))[:, 0]
        assert found[[1, 4]].tolist() == [4.0, 5.0]

    def test_the_episode_ends_with_the_policy_s_last_token(self, batch):
        mask, ends = np.asarray(batch.mask), np.asarray(batch.terminated)
        assert ends.sum(axis=0).tolist() == [1] * mask.shape[1]
        assert (ends <= mask).all()
        assert not (mask & (np.cumsum(ends, axis=0) - ends > 0)).any()

    def test_targets_see_nothing_of_the_environment_s_tokens(self, batch):
        """Values there may be anything; with a trace of 1 an advantage is the reward to go less the value."""
        spoiled = batch._replace(value=jnp.where(batch.mask, batch.value, jnp.nan))
        spoiled = spoiled._replace(next_value=next_own_values(spoiled.value, batch.mask))
        for trace in (1.0, 0.7):
            found = gae_targets(spoiled, 1.0, trace)
            np.testing.assert_array_equal(found.advantage, gae_targets(batch, 1.0, trace).advantage)
        to_go = np.cumsum(np.asarray(batch.reward)[::-1], axis=0)[::-1]
        expected = np.where(batch.mask, to_go - np.asarray(batch.value), 0.0)
        found = gae_targets(batch, 1.0, 1.0).advantage
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_rows_may_be_in_any_order_and_padded(self, written):
        prompts, found, _ = written
        order = jax.random.permutation(jax.random.key(3), len(prompts))
        rewards = jnp.arange(found.tokens.size, dtype=jnp.float32).reshape(found.tokens.shape)

        def made(rows, more):
            wide = [
                jnp.pad(x[rows], ((0, 0), (0, more))) for x in (found.tokens, rewards, found.own)
            ]
            return response_batch(prompts[rows], wide[0], found.length[rows], wide[1], PAD, wide[2])

        first, second = made(jnp.arange(len(prompts)), 0), made(order, 3)
        steps = first.mask.shape[0]
        assert not second.mask[steps:].any()
        for name in ("mask", "reward", "terminated"):
            np.testing.assert_array_equal(
                getattr(first, name)[:, order], getattr(second, name)[:steps]
            )


def updates():
    """Each learner's update of a batch, (params, evaluate) to new parameters."""
    group = TokenGRPO(TokenGRPOConfig(**SIZES, group_size=2, kl_coefficient=0.1), ENV)
    actor_critic = TokenPPO(TokenPPOConfig(**SIZES, gae_lambda=0.8), ENV)
    rate = jnp.asarray(0.01)

    def of_grpo(params, batch, evaluate):
        return grpo.update(
            params,
            group.optimizer.init(params),
            jax.random.key(0),
            batch,
            group_targets(batch, 2)[0],
            evaluate=evaluate,
            optimizer=group.optimizer,
            learning_rate=rate,
            entropy_coefficient=jnp.asarray(0.01),
            objective=group.objective,
            config=group.config,
            skip_empty=False,
        )[0]

    def of_ppo(params, batch, evaluate):
        return ppo.update_and_adapt(
            params,
            actor_critic.optimizer.init(params),
            jax.random.key(0),
            batch,
            gae_targets(batch, 1.0, 0.8),
            evaluate=evaluate,
            optimizer=actor_critic.optimizer,
            learning_rate=rate,
            kl_coefficient=jnp.zeros(()),
            entropy_coefficient=jnp.asarray(0.01),
            objective=actor_critic.objective,
            config=actor_critic.config,
        )[0]

    def of_reinforce(params, batch, evaluate):
        config = reinforce.ReinforceSettings(baseline="mean", whiten_advantages=True)
        return reinforce.update(
            params,
            actor_critic.optimizer.init(params),
            batch,
            reinforce.targets(batch, 0.0, config),
            evaluate=evaluate,
            optimizer=actor_critic.optimizer,
            learning_rate=rate,
            config=PLAIN_GRADIENT,
        )[0]

    return {"grpo": of_grpo, "ppo": of_ppo, "reinforce": of_reinforce}


@pytest.mark.parametrize(
    "name", ["ppo", *(pytest.param(x, marks=pytest.mark.slow) for x in ("grpo", "reinforce"))]
)
def test_loss_and_gradient_do_not_depend_on_the_environment_s_tokens(name, learner, params, batch):
    """Log-probs, entropies and values at its tokens are shifted, by a function of the parameters too."""
    update = updates()[name]

    def learnt(noise):
        def evaluate(params, obs, action, *_):
            found = learner.evaluate(params, {k: obs[k] for k in ("token", "position")}, action)
            weight = noise * sum(jnp.sum(x) for x in jax.tree.leaves(params))
            return Evaluation(*(jnp.where(obs["own"], x, x + weight) for x in found))

        own = batch._replace(obs={**batch.obs, "own": batch.mask})
        own = own._replace(logp=own.logp + jnp.where(own.mask, 0.0, noise))
        own = own._replace(ref_logp=own.ref_logp - jnp.where(own.mask, 0.0, 3 * noise))
        return update(params, own, evaluate)

    learnt = jax.jit(learnt)
    plain, shifted = learnt(0.0), learnt(1.7)
    changed = [
        float(jnp.max(jnp.abs(x - y)))
        for x, y in zip(*map(jax.tree.leaves, (plain, params)), strict=True)
    ]
    assert max(changed) > 1e-3
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), plain, shifted
    )


def test_pairs_of_an_expert_are_refused():
    sizes = {k: v for k, v in SIZES.items() if k != "num_minibatches"}
    with pytest.raises(ValueError, match="pairs must be samples"):
        DPO(DPOConfig(**sizes, pairs="expert"), ENV)


@pytest.mark.slow
def test_grpo_learns_to_guess():
    """From nothing: the mean number of guesses of bisection is 2.33, of guesses at random about 3."""
    config = TokenGRPOConfig(
        **{**SMALL, "imitation_steps": 0, "width": 32, "mlp_width": 64, "num_responses": 256},
    )
    config = dataclasses.replace(
        config, total_steps=300 * 256 * 9, learning_rate=3e-3, entropy_coefficient=0.02
    )
    learner = TokenGRPO(config, ENV)
    run = jax.jit(lambda s: jax.lax.scan(lambda s, _: learner.step(s), s, None, length=300))
    _, metrics = run(jax.jit(learner.init)(jax.random.key(0)))
    assert metrics["train/correct"][:3].mean() < 0.3
    assert metrics["train/correct"][-10:].mean() > 0.9
