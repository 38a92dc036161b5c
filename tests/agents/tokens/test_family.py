"""DAPO, GSPO, CISPO and REINFORCE++, and what they share: dynamic sampling, corrected samplers, passes left out."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import agents
from agents import grpo
from agents.batch import Batch, Targets
from agents.tokens import collection, reinforce_plus_plus
from agents.tokens.collection import Responses, draw_groups_with_spread
from agents.tokens.generation import Generated, log_probs
from agents.tokens.grpo import shared_prompts
from agents.tokens.reward import Reward
from envs.tokens import make_tokens
from tests.agents.tokens.small import SMALL, first_rollout, first_step

BANDIT = {"imitation_steps": 0, "group_size": 4, "warmup": 0.0, "learning_rate": 0.02}


def learner(name, task="sort-3", pays="process", reward=None, **changes):
    algorithm = agents.TOKEN_ALGORITHMS[name]
    given = {} if reward is None else {"reward": reward}
    return algorithm(algorithm.Config(**{**SMALL, **changes}), make_tokens(task, pays), **given)


def equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def close(a, b, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def scripted(key):
    """A draw of three groups of two: outcomes 0 or 1, one token for each in the order of rows, lengths 1 to 3."""
    outcome_key, length_key, name_key = jax.random.split(key, 3)
    outcome = jax.random.bernoulli(outcome_key, 0.8, (6,)).astype(jnp.float32)
    length = jax.random.randint(length_key, (6,), 1, 4)
    names = jax.random.randint(name_key, (6, 1), 1, 1000)
    rewards = jnp.zeros((6, 3)).at[:, 0].set(outcome)
    generated = Generated(jnp.tile(names, (1, 3)), jnp.zeros((6, 3)), length)
    responses = Responses(names, generated, rewards, rewards, outcome > 0, length < 3)
    metrics = collection.response_metrics(responses, jnp.zeros(6, bool))
    return responses, metrics, jnp.sum(length, dtype=jnp.int32)


def by_hand(key, max_rounds):
    """The rows that are kept, the rounds, the tokens and the share of groups without spread."""
    kept, tokens, dropped, rounds = [], 0, [], 0
    while len(kept) < 6 and rounds < max_rounds:
        found, _, written = scripted(jax.random.fold_in(key, rounds))
        rounds, tokens = rounds + 1, tokens + int(written)
        for group in range(3):
            rows = slice(2 * group, 2 * group + 2)
            first, second = np.asarray(found.rewards)[rows].sum(1)
            dropped.append(first == second)
            if first != second:
                kept += np.asarray(found.prompts)[rows, 0].tolist()
    return kept[:6], rounds, tokens, np.mean(dropped)


class TestDynamicSampling:
    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("max_rounds", [1, 3, 20])
    def test_of_a_scripted_reward(self, seed, max_rounds):
        key = jax.random.key(seed)
        rows, rounds, tokens, dropped = by_hand(key, max_rounds)
        found, metrics, written = run_scripted(key, max_rounds)
        assert np.asarray(found.prompts)[: len(rows), 0].tolist() == rows
        assert (np.asarray(found.generated.length)[len(rows) :] == 0).all()
        assert metrics["train/rounds"] == rounds
        assert metrics["train/groups_kept"] == len(rows) / 2
        assert written == tokens == metrics["train/env_steps_taken"]
        assert metrics["train/episodes"] == 6 * rounds
        assert float(metrics["frac_zero_std"]) == pytest.approx(dropped)

    def test_seeds_side_by_side_are_the_seeds_one_by_one(self):
        keys = jax.random.split(jax.random.key(0), 4)
        together = jax.jit(jax.vmap(lambda k: draw_groups_with_spread(scripted, k, 2, 20)))(keys)
        assert len(set(np.asarray(together[1]["train/rounds"]))) > 1
        for i in range(4):
            equal(jax.tree.map(lambda x, i=i: x[i], together), run_scripted(keys[i], 20))

    def test_a_learner_trains_on_groups_with_spread_and_counts_every_token(self):
        """The reward of one context depends on the answer; that of the two others is the same for all."""

        def pays(context, prompts, responses, lengths):
            return jnp.where(prompts[:, 0] == context, responses[:, 0] % 2, 0.5)

        algo = learner("dapo", "bandit-3", "exact", Reward(pays, 3), max_rounds=3, **BANDIT)
        state = jax.jit(algo.init)(jax.random.key(1))
        after, (rollout, metrics) = jax.jit(algo.collect)(state)
        batch = jax.tree.map(np.asarray, rollout.batch)
        kept = int(metrics["train/groups_kept"])
        assert (batch.obs["token"][0, : 4 * kept] == 3).all()
        assert kept > 0
        scores = np.where(batch.mask, batch.reward, 0).sum(0).reshape(4, 4)
        assert (scores[:kept].max(1) > scores[:kept].min(1)).all()
        assert batch.mask.reshape(-1, 4, 4)[:, :kept].any(0).all()
        assert not batch.mask.reshape(-1, 4, 4)[:, kept:].any()
        assert after.tokens == 16 * metrics["train/rounds"] == metrics["train/env_steps_taken"]
        new, metrics = jax.jit(algo.step)(state)
        assert new.tokens == after.tokens
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((new.params, metrics)))

    def test_without_a_group_there_is_no_update(self):
        """The charge for length makes scores differ, and the raw outcome decides all the same."""
        same = Reward(lambda params, x, y, n: jnp.ones(len(n)))
        algo = learner("dapo", reward=same, overlong_buffer=3, max_rounds=2, warmup=0.0)
        step = jax.jit(algo.step)
        state = jax.jit(algo.init)(jax.random.key(0))
        # A momentum that would carry the parameters on.
        moved = jax.tree.map(lambda x: x + jnp.ones_like(x), state.opt_state)
        state = dataclasses.replace(state, opt_state=moved)
        new, metrics = step(state)
        equal((new.params, new.opt_state), (state.params, state.opt_state))
        assert metrics["train/groups_kept"] == 0
        assert metrics["train/rounds"] == 2
        assert metrics["frac_zero_std"] == 1
        assert new.tokens == metrics["train/env_steps_taken"] > 16 * 2
        assert all(np.isfinite(x).all() for x in metrics.values())

    @pytest.mark.slow
    def test_learners_side_by_side(self):
        algo = learner("dapo", max_rounds=3)
        keys = jax.random.split(jax.random.key(3), 2)
        together = jax.jit(jax.vmap(lambda k: algo.step(algo.init(k))))(keys)
        alone = first_step(algo, keys[1])
        for a, b in zip(
            jax.tree.leaves((together[0].params, together[1])),
            jax.tree.leaves((alone[0].params, alone[1])),
            strict=True,
        ):
            np.testing.assert_allclose(a[1], b, atol=1e-4, rtol=1e-4)


run_scripted = jax.jit(
    lambda key, rounds: draw_groups_with_spread(scripted, key, 2, rounds), static_argnums=1
)


def test_minibatches_without_steps_are_skipped():
    """Where the caller says so; Adam's momentum would carry the parameters on."""
    algo = learner("grpo", "bandit-3", "exact", **BANDIT)
    state, (rollout, _) = first_rollout(algo)
    nothing = rollout.batch._replace(mask=jnp.zeros_like(rollout.batch.mask))
    moved = jax.tree.map(jnp.ones_like, state.opt_state)

    def after(skip_empty):
        return jax.jit(
            lambda: grpo.update(
                state.params,
                moved,
                jax.random.key(0),
                nothing,
                Targets(nothing.reward),
                evaluate=algo.evaluate,
                optimizer=algo.optimizer,
                learning_rate=jnp.ones(()),
                entropy_coefficient=0.0,
                objective=algo.objective,
                config=algo.config,
                skip_empty=skip_empty,
            )
        )()

    equal(after(True)[:2], (state.params, moved))
    with pytest.raises(AssertionError):
        equal(after(False)[0], state.params)


def test_the_charge_for_length():
    """0 up to three tokens before the greatest length, then a third more for each."""
    free, charged = (collected(**x)[2][0] for x in ({}, {"overlong_buffer": 3}))
    length = np.asarray(free.batch.mask).sum(0)
    longest = make_tokens("sort-3").response_length
    expected = np.clip((longest - 3 - length) / 3, -1, 0)
    assert len(set(expected)) > 1
    difference = np.asarray(charged.batch.reward - free.batch.reward)
    np.testing.assert_allclose(difference.sum(0), expected, atol=1e-6)
    last = np.asarray(free.batch.terminated & free.batch.mask)
    assert (difference[~last] == 0).all()


@functools.cache
def collected(name="grpo", **changes):
    algo = learner(name, **changes)
    return algo, *first_rollout(algo)


def gradient(algo, params, batch, advantage):
    """What one gradient step of size 1 moves."""
    config = dataclasses.replace(algo.config, num_epochs=1, num_minibatches=1)
    new, _, metrics = jax.jit(
        lambda p: grpo.update(
            p,
            optax.EmptyState(),
            jax.random.key(0),
            batch,
            Targets(advantage),
            evaluate=algo.evaluate,
            optimizer=optax.identity(),
            learning_rate=jnp.ones(()),
            entropy_coefficient=0.0,
            objective=algo.objective,
            config=config,
        )
    )(params)
    return jax.tree.map(lambda a, b: a - b, params, new), metrics


def test_cispos_clipped_tokens_learn():
    """At a ratio of 10 with a positive advantage: nothing by GRPO, five times the policy gradient by CISPO."""
    found = {}
    for name in ("grpo", "cispo"):
        algo, state, (rollout, _) = collected(name)
        far = rollout.batch._replace(logp=rollout.batch.logp - jnp.log(10.0))
        advantage = jnp.where(far.mask, 1.0, 0.0)
        found[name], metrics = gradient(algo, state.params, far, advantage)
        assert metrics["clip_fraction_high"] == 1.0

    def policy_gradient(params):
        logp = algo.evaluate(params, far.obs, far.action).logp
        return -5.0 * jnp.sum(jnp.where(far.mask, logp, 0.0)) / jnp.sum(far.mask)

    equal(found["grpo"], jax.tree.map(jnp.zeros_like, state.params))
    expected = jax.jit(jax.grad(policy_gradient))(state.params)
    assert max(np.abs(x).max() for x in jax.tree.leaves(expected)) > 0.1
    close(found["cispo"], expected, atol=1e-5)


def test_gspos_range_is_of_sequences():
    """Tokens far outside of it cancel in the first response; in the second all are a little outside of it."""
    algo = learner("gspo")
    logp = jnp.array([[0.5, 0.01], [-0.5, 0.01]])
    old, advantage, mask = jnp.zeros((2, 2)), jnp.ones((2, 2)), jnp.ones((2, 2), bool)

    def loss(logp):
        each = algo.objective.surrogate(logp, old, advantage, mask)
        return jnp.divide(*algo.objective.aggregate(each, mask))

    np.testing.assert_allclose(jax.grad(loss)(logp), [[-0.25, 0], [-0.25, 0]], atol=1e-6)
    outside = algo.objective.measure(logp, old, mask)
    np.testing.assert_array_equal(outside["clip_fraction_high"], [[0, 1], [0, 1]])
    np.testing.assert_array_equal(outside["clip_fraction_low"], np.zeros((2, 2)))


class TestReinforcePlusPlus:
    # The second response has one token; the first token of the first was charged 0.1 for its KL.
    REWARD = jnp.array([[-0.1, 0.5], [1.0, 9.0]])
    MASK = jnp.array([[True, True], [True, False]])

    def targets(self, **changes):
        flags = jnp.zeros((2, 2), bool)
        reward = self.REWARD
        batch = Batch(reward, reward, None, reward, flags, flags, self.MASK)
        config = reinforce_plus_plus.ReinforcePlusPlusConfig(group_size=2, **changes)
        return reinforce_plus_plus.targets(batch, config).advantage

    def test_returns_to_go_are_whitened_over_tokens(self):
        # Returns 0.9, 1.0 and 0.5: mean 0.8, variance (0.01 + 0.04 + 0.09) / 2.
        expected = np.array([[0.1, -0.3], [0.2, 0.0]]) / np.sqrt(0.07)
        np.testing.assert_allclose(self.targets(), expected, rtol=1e-5)

    def test_with_a_discount(self):
        # Returns -0.1 + 0.5, 1.0 and 0.5.
        returns = np.array([0.4, 1.0, 0.5])
        white = (returns - returns.mean()) / returns.std(ddof=1)
        expected = np.array([[white[0], white[2]], [white[1], 0.0]])
        np.testing.assert_allclose(self.targets(gamma=0.5), expected, rtol=1e-5)

    def test_with_the_mean_of_the_group(self):
        # Scores 0.9 and 0.5 are 0.2 above and below their mean; at three tokens their mean is 0.2 / 3.
        tokens = np.array([0.2, 0.2, -0.2])
        white = (tokens - tokens.mean()) / tokens.std(ddof=1)
        expected = np.array([[white[0], white[2]], [white[1], 0.0]])
        np.testing.assert_allclose(self.targets(baseline="group"), expected, rtol=1e-5)

    def test_prompts_are_repeated_for_groups_alone(self):
        for baseline, repeats in (("none", 1), ("group", 8)):
            assert learner("reinforce++", baseline=baseline).group_size == repeats


class TestCorrectedSampler:
    def as_if(self, shift, **changes):
        """A learner whose sampler reports the learner's own log-probs, and `shift` more."""
        algo = learner("grpo", **changes)
        respond = algo.respond

        def sampler(params, prompts, key, sampling=None, repeats=1):
            found = respond(params, prompts, key, sampling, repeats)
            prompts = jnp.repeat(prompts, repeats, axis=0)
            batch = algo.batch(prompts, found.tokens, found.length, found.logp)
            own = algo.evaluate(params, batch.obs, batch.action).logp
            own = own[algo.env.prompt_length - 1 :].T
            written = jnp.arange(own.shape[1]) < found.length[:, None]
            return found._replace(logp=jnp.where(written, own + shift, 0.0))

        algo.respond = sampler
        return first_step(algo)

    @pytest.mark.slow
    def test_of_the_learner_itself_changes_nothing(self):
        off, plain = self.as_if(0.0)
        on, metrics = self.as_if(0.0, importance_bound=2.0)
        equal((off.params, off.opt_state), (on.params, on.opt_state))
        assert metrics["importance/mean"] == metrics["importance/max"] == 1
        assert metrics["importance/effective_sample_size"] == 1
        assert metrics["importance/share_cut"] == 0
        assert metrics["loss/policy"] == plain["loss/policy"]

    @pytest.mark.slow
    def test_weights_are_cut(self):
        _, metrics = self.as_if(-jnp.log(4.0), importance_bound=2.0)
        for name, value in (
            ("mean", 4),
            ("max", 4),
            ("effective_sample_size", 1),
            ("share_cut", 1),
        ):
            assert float(metrics[f"importance/{name}"]) == pytest.approx(value, rel=1e-5)

    @pytest.mark.parametrize("name", ["grpo", pytest.param("ppo", marks=pytest.mark.slow)])
    def test_ours_agrees_with_the_learner(self, name):
        algo = learner(name, importance_bound=2.0)
        _, (rollout, metrics) = first_rollout(algo)
        weight = np.asarray(rollout.batch.weight)[np.asarray(rollout.batch.mask)]
        np.testing.assert_allclose(weight, 1.0, atol=1e-4)
        assert float(metrics["importance/mean"]) == pytest.approx(1, abs=1e-4)

    def test_weights_multiply_the_policys_loss(self):
        algo, state, (rollout, _) = collected()
        batch = rollout.batch
        advantage = jnp.where(batch.mask, 1.0, 0.0)
        plain, _ = gradient(algo, state.params, batch, advantage)
        weighted = batch._replace(weight=jnp.full(batch.mask.shape, 1.5))
        found, _ = gradient(algo, state.params, weighted, advantage)
        close(found, jax.tree.map(lambda x: 1.5 * x, plain))


@pytest.mark.parametrize(
    "changes", [{"top_k": 3}, pytest.param({"top_p": 0.6}, marks=pytest.mark.slow)]
)
def test_the_samplers_choice_of_tokens_is_kept_while_the_policy_moves(changes):
    algo, state, (rollout, _) = collected(temperature=1.3, **changes)
    moved = jax.tree.map(lambda x: x + 0.3 * np.sign(x), state.params)
    batch = rollout.batch

    @jax.jit
    def look(params):
        model = algo.network.module(params).policy
        logits = model.logits(model.hidden(batch.obs["token"].T, batch.obs["position"].T))
        everything = log_probs(logits, algo.config.sampling.untruncated)
        anew = log_probs(logits, algo.config.sampling)
        found = algo.evaluate(params, batch.obs, batch.action)
        return jnp.swapaxes(everything, 0, 1), jnp.swapaxes(anew, 0, 1), found

    everything, anew, found = (jax.tree.map(np.asarray, x) for x in look(moved))
    allowed = np.asarray(batch.obs["allowed"])
    drawn = np.take_along_axis(allowed, np.asarray(batch.action)[..., None], -1)[..., 0]
    assert drawn[batch.mask].all()
    assert (allowed != (anew > -1e20))[batch.mask].any()
    inside = np.where(allowed, np.exp(everything), 0.0)
    probability = inside / np.maximum(inside.sum(-1, keepdims=True), 1e-30)
    chosen = np.take_along_axis(probability, np.asarray(batch.action)[..., None], -1)[..., 0]
    np.testing.assert_allclose(np.exp(found.logp)[batch.mask], chosen[batch.mask], atol=1e-5)
    surprise = np.where(allowed & (probability > 0), -np.log(np.maximum(probability, 1e-30)), 0.0)
    entropy = (probability * surprise).sum(-1)
    np.testing.assert_allclose(found.entropy[batch.mask], entropy[batch.mask], atol=1e-4)


class TestPassesNobodyNeedsAreNotMade:
    ONCE = {"num_epochs": 1, "num_minibatches": 1}

    @pytest.mark.parametrize(
        ("name", "changes", "passes"),
        [
            ("grpo", {}, 0),  # the old log-probs are the sampler's
            ("grpo", {"old_pass": True}, 1),
            ("grpo", {"dtype": "bfloat16"}, 1),
            ("grpo", {"kl_coefficient": 0.1}, 1),
            ("grpo", {"kl_in_reward": 0.1}, 1),
            ("grpo", {"measure_kl": True}, 1),
            ("grpo", {"measure_kl": True, "old_pass": True}, 2),
            ("grpo", ONCE, 0),
            ("grpo", ONCE | {"kl_coefficient": 0.1}, 1),
            ("grpo", ONCE | {"importance_bound": 2.0}, 1),
            ("ppo", {}, 0),  # of the critic alone
            ("ppo", ONCE, 0),
            ("ppo", ONCE | {"objective": "kl"}, 0),
            ("reinforce", {}, 0),
            ("rloo", {"kl_in_reward": 0.1}, 1),
            ("rejection", {}, 0),
        ],
    )
    def test_before_the_update(self, name, changes, passes):
        algo = learner(name, **changes)
        state = jax.eval_shape(algo.init, jax.random.key(0))
        calls, evaluate = [], algo.evaluate
        algo.evaluate = lambda *a: calls.append(1) or evaluate(*a)
        _, (rollout, metrics) = jax.eval_shape(algo.collect, state)
        without = algo.collection.single_step and not algo.collection.has_old_pass
        assert (rollout.batch.logp is None) == without
        assert len(calls) == passes
        has_reference = any(x in changes for x in ("kl_coefficient", "kl_in_reward", "measure_kl"))
        assert ("kl_reference" in metrics) == has_reference
        assert (rollout.batch.ref_logp is not None) == has_reference

    @pytest.mark.parametrize(
        "name", ["gspo", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ppo", "reinforce++"))]
    )
    def test_a_single_step_takes_the_old_log_probs_from_its_own_pass(self, name):
        """The same step of plain gradient descent as with a pass for these."""
        bonus = {"entropy_coefficient": 0.01, "learning_rate": 1.0, "warmup": 0.0}
        found = []
        for single in (True, False):
            algo = learner(name, **self.ONCE, **bonus)
            assert algo.collection.single_step
            algo.collection = algo.collection._replace(single_step=single)
            algo.optimizer = optax.identity()
            found.append(first_step(algo))
        (one, first), (two, second) = found
        close(one.params, two.params, atol=1e-6)
        assert first["grad_norm"] > 0
        np.testing.assert_allclose(first["grad_norm"], second["grad_norm"], rtol=1e-4)
        np.testing.assert_allclose(first["loss/policy"], second["loss/policy"], atol=1e-6)

    def test_more_steps_need_them(self):
        algo, state, (rollout, _) = collected()
        with pytest.raises(ValueError, match=r"batch\.logp is None, and 4 gradient steps need it"):
            grpo.update(
                state.params,
                state.opt_state,
                jax.random.key(0),
                rollout.batch._replace(logp=None),
                Targets(rollout.batch.reward),
                evaluate=algo.evaluate,
                optimizer=algo.optimizer,
                learning_rate=jnp.ones(()),
                entropy_coefficient=0.0,
                objective=algo.objective,
                config=algo.config,
            )

    @pytest.mark.parametrize(
        ("name", "changes"),
        [("grpo", {"old_pass": True}), pytest.param("reinforce", {}, marks=pytest.mark.slow)],
    )
    def test_sampler_and_learner_are_compared(self, name, changes):
        algo = learner(name, **changes)
        _, metrics = first_step(algo)
        assert 0 <= metrics["logp_diff_max"] < 1e-4

    def test_a_prompt_read_once_for_its_group_has_the_same_gradient(self):
        algo, state, (rollout, _) = collected()
        batch = rollout.batch

        @functools.partial(jax.jit, static_argnums=1)
        def gradient(params, repeats):
            def total(params):
                found = algo.evaluate(params, batch.obs, batch.action, None, repeats)
                return jnp.sum(jnp.where(batch.mask, found.logp + found.entropy, 0.0))

            return jax.grad(total)(params)

        once, each = (gradient(state.params, n) for n in (algo.group_size, 1))
        for ours, theirs in zip(jax.tree.leaves(once), jax.tree.leaves(each), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)

    def test_groups_stay_together_where_nothing_is_shuffled(self):
        size = SMALL["num_responses"]
        assert shared_prompts(learner("grpo", num_minibatches=1)) == 8
        assert shared_prompts(learner("grpo", num_minibatches=1, micro_batches=2)) == 8
        assert shared_prompts(learner("grpo", num_minibatches=1, micro_batches=size)) == 1
        assert shared_prompts(learner("grpo", num_minibatches=2)) == 1

    def test_logits_at_responses_are_those_of_whole_sequences(self):
        algo, state, (rollout, _) = collected()
        batch = rollout.batch

        @jax.jit
        def whole(params):
            model = algo.network.module(params).policy
            logits = model.logits(model.hidden(batch.obs["token"].T, batch.obs["position"].T))
            logp = log_probs(logits, algo.config.sampling)
            chosen = jnp.take_along_axis(logp, batch.action.T[..., None], axis=-1)[..., 0]
            return chosen.T, -jnp.sum(jnp.exp(logp) * logp, axis=-1).T

        mask = np.asarray(batch.mask)
        expected = whole(state.params)
        for repeats in (1, algo.group_size):  # each by itself; a prompt once for its group
            found = jax.jit(lambda *a, n=repeats: algo.evaluate(*a, None, n))(
                state.params, batch.obs, batch.action
            )
            for ours, theirs in zip(found[:2], expected, strict=True):
                np.testing.assert_allclose(
                    np.asarray(ours)[mask], np.asarray(theirs)[mask], atol=1e-5
                )
                assert (np.asarray(ours)[: algo.env.prompt_length - 1] == 0).all()


@pytest.mark.parametrize("changes", [{"top_k": 4}, pytest.param({}, marks=pytest.mark.slow)])
def test_the_exact_kl_is_the_sum_over_the_vocabulary(changes):
    algo, state, _ = collected(measure_kl=True, **changes)
    moved = jax.tree.map(lambda x: x + 0.1 * np.sign(x), state.params)
    state = dataclasses.replace(state, reference=moved)
    _, (rollout, metrics) = jax.jit(algo.collect)(state)
    batch = rollout.batch

    @jax.jit
    def tables(params, reference):
        out = []
        for p, sampling in (
            (params, algo.config.sampling),
            (reference, algo.config.sampling.untruncated),
        ):
            model = algo.network.module(p).policy
            hidden = model.hidden(batch.obs["token"].T, batch.obs["position"].T)
            out.append(jnp.swapaxes(log_probs(model.logits(hidden), sampling), 0, 1))
        return out

    own, other = (np.asarray(x)[np.asarray(batch.mask)] for x in tables(state.params, moved))
    terms = np.where(own > -1e20, np.exp(own) * (own - other), 0.0)
    assert float(metrics["kl_exact"]) == pytest.approx(terms.sum(-1).mean(), rel=1e-4)
    assert metrics["kl_exact"] > 0.01


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("dapo", {"group_size": 1}, "group_size must be at least 2"),
        ("dapo", {"max_rounds": 0}, "max_rounds must be at least 1, got 0"),
        ("dapo", {"clip_high": 0.1}, "clip_high must be at least clip_low = 0.2, got 0.1"),
        (
            "dapo",
            {"kl_in_reward": 0.1, "kl_in_reward_target": 1.0},
            "dynamic_sampling leaves batches short",
        ),
        ("ppo", {"clip_high": 0.1}, "clip_high must be at least clip_ratio = 0.2, got 0.1"),
        ("ppo", {"dual_clip": 1.1}, "dual_clip must be more than 1"),
        ("ppo", {"dual_clip": 3.0, "objective": "kl"}, "belong to objective clip"),
        ("grpo", {"dual_clip": 1.2}, "dual_clip must be more than 1 . clip_high = 1.2"),
        ("gspo", {"dual_clip": 3.0}, "dual_clip belongs to surrogate clip, which is gspo"),
        ("grpo", {"surrogate": "ppo"}, 'surrogate must be "clip" or'),
        ("grpo", {"importance_bound": 0.5}, "importance_bound must be at least 1"),
        ("grpo", {"overlong_buffer": 0}, "overlong_buffer must be positive"),
        ("grpo", {"overlong_buffer": 99}, "overlong_buffer = 99 is more than the greatest length"),
        (
            "grpo",
            {"overlong_buffer": 2, "cut_responses": "penalise"},
            "both charge for length: take one",
        ),
        ("reinforce++", {"dynamic_sampling": True}, "dynamic_sampling needs groups"),
        ("reinforce++", {"scale_advantages": True}, "divides by that of the batch"),
        ("reinforce++", {"gamma": 2.0}, "gamma must be between 0 and 1"),
    ],
)
def test_bad_settings(name, changes, message):
    with pytest.raises(ValueError, match=message):
        learner(name, **changes)


def test_a_charge_for_length_needs_lengths():
    with pytest.raises(ValueError, match="overlong_buffer has nothing to act on"):
        learner("dapo", "bandit-3", overlong_buffer=1)
