import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import agents
from agents import grpo, reinforce
from agents.batch import Batch, Evaluation, Targets
from agents.groups import group_targets, leave_one_out_targets
from agents.tokens.generation import log_probs
from envs import probes
from envs.tokens import make_tokens
from tests.agents.tokens.small import SMALL, first_rollout, first_step

ALGORITHMS = agents.TOKEN_ALGORITHMS


def slow(*values):
    """Marks cases for runs by hand: each takes the same path as another case, and seconds to compile."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def learner(name, task="sort-3", reward="process", **changes):
    algorithm = ALGORITHMS[name]
    return algorithm(algorithm.Config(**{**SMALL, **changes}), make_tokens(task, reward))


@functools.cache
def collected(name="grpo", **changes):
    algo = learner(name, **changes)
    state, (rollout, metrics) = first_rollout(algo)
    return algo, state, rollout, metrics


@pytest.mark.parametrize(
    "name",
    [
        *("sft", "grpo"),
        *slow(*(name for name in ALGORITHMS if name not in ("sft", "grpo"))),
    ],
)
def test_a_bandit_is_solved(name):
    """A context, one right arm in three: every learner finds it."""
    changes = {"num_responses": 96, "learning_rate": 0.02, "total_steps": 60 * 96}
    if name == "ipo":  # its optimum is a finite lead, 1 / (2 beta): at 0.1 the right arm has 0.955
        changes["beta"] = 0.05
    if name == "simpo":  # the lead grows with the logarithm of the steps, in units of 1 / beta
        changes["beta"] = 0.2
    algo = learner(name, "bandit-3", "exact", imitation_steps=0, **changes)

    @jax.jit
    def run(train_key, prompts_key, response_key):
        state, metrics = jax.lax.scan(lambda s, _: algo.step(s), algo.init(train_key), length=60)
        prompts = algo.env.held_out(prompts_key, 256)
        found = algo.respond(state.params, prompts, response_key)
        return algo.env.score(prompts, found.tokens, found.length)[1], metrics

    correct, metrics = run(*map(jax.random.key, (1, 2, 3)))
    assert np.mean(correct) > 0.95
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics))


def hand_weights(name, algo, rollout):
    """Weight of each token's log-prob in the loss, [T, N], from the papers' formulas, in NumPy."""
    batch = jax.tree.map(lambda x: np.asarray(x, float), rollout.batch)
    mask, size = batch.mask, algo.config.num_responses
    to_go = np.cumsum((batch.reward * mask)[::-1], axis=0)[::-1]
    total = to_go[0]
    tokens = mask.sum()
    if name == "rejection":
        kept = mask * np.asarray(rollout.correct)
        return kept / max(kept.sum(), 1)
    if name == "reinforce":
        others = [np.delete(np.arange(size), n) for n in range(size)]
        baseline = [(to_go * mask)[:, o].sum() / mask[:, o].sum() for o in others]
        return mask * (to_go - baseline) / tokens
    if name == "ppo":
        advantage = (to_go - batch.value)[mask > 0]
        white = np.zeros_like(mask)
        white[mask > 0] = (advantage - advantage.mean()) / np.sqrt(advantage.var(ddof=1) + 1e-8)
        return white / tokens
    groups = total.reshape(-1, algo.config.group_size)
    if name == "rloo":
        others = (groups.sum(1, keepdims=True) - groups) / (algo.config.group_size - 1)
        return mask * (groups - others).ravel() / tokens
    if name == "reinforce++":
        white = (to_go - to_go[mask > 0].mean()) / to_go[mask > 0].std(ddof=1)
        return mask * white / tokens
    centred = groups - groups.mean(1, keepdims=True)
    if name == "dr-grpo":
        return mask * centred.ravel() / (size * algo.env.response_length)
    scaled = (centred / (groups.std(1, ddof=1, keepdims=True) + 1e-4)).ravel()
    if name in ("dapo", "cispo"):
        return mask * scaled / tokens
    return mask * scaled / mask.sum(0) / size


@pytest.mark.parametrize(
    "name",
    [
        *("ppo", "grpo", "gspo"),
        *slow("dr-grpo", "reinforce", "rloo", "rejection", "dapo", "cispo", "reinforce++"),
    ],
)
def test_a_step_is_the_gradient_of_the_paper(name):
    """One step of plain gradient descent at rate 1, where every importance ratio is 1."""
    once = {"num_epochs": 1, "num_minibatches": 1}
    fields = {f.name for f in dataclasses.fields(ALGORITHMS[name].Config)}
    changes = {k: v for k, v in once.items() if k in fields}
    # Enough imitation that some responses are right, and some are not.
    changes |= {"imitation_steps": 40, "learning_rate": 1.0, "warmup": 0.0}
    algo = learner(name, "sort-2", **changes)
    state = jax.jit(algo.init)(jax.random.key(0))
    algo.optimizer = optax.identity()
    state = dataclasses.replace(state, opt_state=algo.optimizer.init(state.params))
    _, (rollout, _) = jax.jit(algo.collect)(state)
    weight = hand_weights(name, algo, rollout)
    new = jax.jit(algo.step)(state)[0]

    @jax.jit
    def gradient(params):
        def loss(params):
            logp = algo.evaluate(params, rollout.batch.obs, rollout.batch.action).logp
            return -jnp.sum(weight * jnp.where(rollout.batch.mask, logp, 0.0))

        return jax.grad(loss)(params)

    expected = gradient(state.params)["policy"]
    moved = jax.tree.map(lambda a, b: a - b, state.params, new.params)["policy"]
    assert max(np.abs(x).max() for x in jax.tree.leaves(expected)) > 1e-3
    close(moved, expected, atol=1e-5)


def test_the_batch_is_what_was_generated():
    algo, _, rollout, _ = collected()
    batch, size = jax.tree.map(np.asarray, rollout.batch), algo.env.prompt_length
    assert batch.mask.shape == (size + algo.env.response_length - 1, 16)
    assert not batch.mask[: size - 1].any()
    for column in range(16):
        steps = np.flatnonzero(batch.mask[:, column])
        np.testing.assert_array_equal(steps, np.arange(steps[0], steps[-1] + 1))
        assert np.flatnonzero(batch.terminated[:, column]).tolist() == [steps[-1]]
        # What was done at t is what is seen at t + 1.
        np.testing.assert_array_equal(
            batch.action[steps[:-1], column], batch.obs["token"][steps[1:], column]
        )
        ended = batch.action[steps[-1], column] == algo.env.stop
        assert ended or len(steps) == algo.env.response_length


def test_sampler_and_learner_agree():
    for changes in ({}, {"top_k": 5, "top_p": 0.8, "temperature": 1.3}):
        *_, metrics = collected(old_pass=True, **changes)
        assert metrics["logp_diff_max"] < 1e-4


def test_a_group_has_one_prompt():
    algo, _, rollout, _ = collected()
    prompts = np.asarray(rollout.batch.obs["token"])[: algo.env.prompt_length].T.reshape(2, 8, -1)
    assert (prompts == prompts[:, :1]).all()
    assert (prompts[0] != prompts[1]).any()


def test_fractions_of_rewards_survive():
    *_, rollout, metrics = collected()
    totals = np.sum(rollout.batch.reward, axis=0)
    assert ((totals > 0) & (totals < 1)).any()
    np.testing.assert_allclose(metrics["train/return"], totals.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "changes", [*slow({"top_k": 3}, {"top_p": 0.6}), {"top_k": 4, "top_p": 0.7}]
)
def test_the_kl_under_truncation_is_one(changes):
    """KL(pi || ref) for the pi that is sampled from; the reference leaves out nothing. By the sum over all tokens."""
    algo, state, rollout, _ = collected(temperature=1.3, **changes)
    moved = jax.tree.map(lambda x: x + 0.1 * np.sign(x), state.params)
    batch = rollout.batch

    @jax.jit
    def look(params, reference):
        every = jnp.arange(algo.env.vocabulary_size)[:, None, None]
        action = jnp.broadcast_to(every, (len(every), *batch.action.shape))
        of_reference = jax.vmap(lambda a: algo.reference_logp(reference, batch.obs, a))(action)
        hidden = algo.network.module(params).policy
        hidden_states = hidden.hidden(batch.obs["token"].T, batch.obs["position"].T)
        logp = log_probs(hidden.logits(hidden_states), algo.config.sampling)
        return jnp.transpose(logp, (2, 1, 0)), of_reference

    logp, reference = (np.asarray(x)[:, batch.mask] for x in look(state.params, moved))
    np.testing.assert_allclose(np.exp(reference).sum(0), 1.0, rtol=1e-5)
    drawn = logp > -1e20
    assert 1 <= drawn.sum(0).min() < drawn.sum(0).max() or drawn.sum(0).max() < len(drawn)
    terms = np.where(drawn, np.exp(logp) * (np.where(drawn, logp, 0.0) - reference), 0.0)
    assert terms.sum(0).min() > 0.0
    # What the batch holds of the tokens that were drawn is the same.
    own = np.take_along_axis(logp, np.asarray(batch.action)[batch.mask][None], axis=0)[0]
    np.testing.assert_allclose(own, np.asarray(batch.logp)[batch.mask], atol=1e-5)


def spoilt(algo, value):
    """Its environment, where the first token of a response that begins with the digit 0 earns `value`."""
    score = algo.env.score

    def scores(prompts, responses, lengths):
        rewards, correct = score(prompts, responses, lengths)
        bad = responses[:, 0] == 2
        return rewards.at[:, 0].set(jnp.where(bad, value, rewards[:, 0])), correct

    env = types.SimpleNamespace(
        **{name: getattr(algo.env, name) for name in OF_A_TASK if name != "score"}, score=scores
    )
    return type(algo)(algo.config, env)


OF_A_TASK = [
    *("vocabulary_size", "prompt_length", "response_length", "pad", "stop"),
    *("prompts", "has_solutions", "solutions", "score"),
]


@pytest.mark.parametrize("value", [np.nan, *slow(np.inf)])
def test_token_reward_not_finite(value):
    """Such a response earns 0 and is counted; the others are learnt from as ever."""
    algo = spoilt(learner("grpo"), value)
    _, (rollout, metrics) = first_rollout(algo)
    batch = rollout.batch
    bad = np.asarray(batch.action)[algo.env.prompt_length - 1] == 2
    assert metrics["train/nonfinite"] == bad.sum() > 0
    assert (np.asarray(batch.reward)[:, bad] == 0).all()
    assert not np.asarray(rollout.correct)[bad].any()
    assert np.asarray(batch.reward)[:, ~bad].sum() > 0
    state, metrics = first_step(algo)
    for x in jax.tree.leaves((state.params, metrics)):
        assert np.isfinite(x).all()


class TestCutResponses:
    def both(self, name, how, **changes):
        algo = learner(name, cut_responses=how, **changes)
        state, (rollout, metrics) = first_rollout(algo)
        batch = jax.tree.map(np.asarray, rollout.batch)
        ended = np.any((batch.action == algo.env.stop) & batch.mask, axis=0)
        assert 0 < ended.sum() < len(ended)
        np.testing.assert_allclose(metrics["train/cut"], 1 - ended.mean(), rtol=1e-6)
        return algo, state, rollout, ended, metrics

    def test_masked_ones_leave_the_loss_and_stay_in_the_baseline(self):
        algo, state, rollout, ended, _ = self.both("grpo", "mask")
        assert not np.asarray(rollout.loss_mask)[:, ~ended].any()
        np.testing.assert_array_equal(
            np.asarray(rollout.loss_mask)[:, ended], np.asarray(rollout.batch.mask)[:, ended]
        )
        targets, _ = group_targets(rollout.batch, 8)
        masked = rollout.loss_batch
        find = jax.jit(lambda b, t: gradients(algo, state.params, b, t))
        without = jax.tree.map(lambda x: np.asarray(x)[:, ended], (rollout.batch, targets))
        close(find(masked, targets), find(*without))

    @pytest.mark.parametrize(
        "name", ["grpo", *slow("rejection", "reinforce", "rloo", "ppo", "dapo", "reinforce++")]
    )
    def test_every_learner_can_mask_them(self, name):
        algo = learner(name, cut_responses="mask")
        state, metrics = first_step(algo)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, metrics)))

    def test_penalised_ones_earn_the_score_and_nothing_else(self):
        _, _, rollout, ended, metrics = self.both("ppo", "penalise", cut_score=-0.5)
        kept = learner("ppo")
        _, (plain, plain_metrics) = first_rollout(kept)
        total = np.sum(rollout.batch.reward, axis=0)
        np.testing.assert_allclose(total[~ended], -0.5)
        np.testing.assert_array_equal(
            np.asarray(rollout.batch.reward)[:, ended], np.asarray(plain.batch.reward)[:, ended]
        )
        assert metrics["train/return"] == plain_metrics["train/return"]  # the task's own

    @pytest.mark.parametrize(
        ("name", "task", "changes", "message"),
        [
            ("rejection", "sort-3", {"cut_responses": "penalise"}, "changes nothing here"),
            ("grpo", "bandit-3", {"cut_responses": "mask"}, "no token ends a response"),
            ("grpo", "sort-3", {"cut_score": -2.0}, "needs cut_responses penalise"),
            (
                "ppo",
                "sort-3",
                {"cut_responses": "penalise", "cut_score": 1.0},
                "cut_score must not be positive",
            ),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, name, task, changes, message):
        with pytest.raises(ValueError, match=message):
            learner(name, task, **changes)


def test_without_an_expert_there_is_no_imitation():
    env = types.SimpleNamespace(
        **{
            name: getattr(make_tokens("sort-3"), name)
            for name in OF_A_TASK
            if name != "has_solutions"
        },
        has_solutions=False,
    )
    config = ALGORITHMS["grpo"].Config(**{**SMALL, "imitation_steps": 0})
    algo = ALGORITHMS["grpo"](config, env)
    jax.eval_shape(algo.step, jax.eval_shape(algo.init, jax.random.key(0)))
    with pytest.raises(ValueError, match="imitation_steps = 3 needs an expert"):
        ALGORITHMS["grpo"](dataclasses.replace(config, imitation_steps=3), env)
    with pytest.raises(ValueError, match="SFT imitates an expert, and the task has none"):
        ALGORITHMS["sft"](ALGORITHMS["sft"].Config(**{**SMALL, "imitation_steps": 0}), env)


def test_what_learners_report():
    """PPO on which side ratios leave the clip range; those with groups, how many had no spread."""
    wanted = {
        "ppo": {"clip_fraction_low", "clip_fraction_high"},
        "grpo": {"clip_fraction_low", "clip_fraction_high", "frac_zero_std"},
        "rloo": {"frac_zero_std"},
    }
    for name, metrics in wanted.items():
        algo = learner(name)
        found = jax.eval_shape(lambda k, a=algo: a.step(a.init(k)), jax.random.key(0))[1]
        assert metrics | {"train/nonfinite"} <= found.keys()


def test_groups_without_spread_are_counted():
    reward = jnp.array([[1.0, 1.0, 0.0, 1.0, 0.0, 0.0]])
    flags = jnp.zeros_like(reward, bool)
    batch = Batch(
        obs=reward,
        action=reward,
        logp=reward,
        reward=reward,
        terminated=flags,
        truncated=flags,
        mask=~flags,
    )
    targets, metrics = leave_one_out_targets(batch, 2)
    assert metrics["frac_zero_std"] == pytest.approx(2 / 3)
    np.testing.assert_allclose(targets.advantage, [[0, 0, -1, 1, 0, 0]])


def test_kl_is_taken_off_the_rewards():
    algo, state, *_ = collected("ppo", kl_in_reward=0.5)
    moved = dataclasses.replace(
        state, reference=jax.tree.map(lambda x: x + 0.05 * np.sign(x), state.params)
    )
    free = dataclasses.replace(moved, kl_in_reward=jnp.zeros_like(moved.kl_in_reward))
    collect = jax.jit(algo.collect)
    taxed, untaxed = (jax.tree.map(np.asarray, collect(s)[1][0]) for s in (moved, free))
    apart = np.where(taxed.batch.mask, taxed.batch.logp - taxed.batch.ref_logp, 0.0)
    np.testing.assert_allclose(untaxed.batch.reward - taxed.batch.reward, 0.5 * apart, atol=1e-5)
    np.testing.assert_allclose(taxed.kl, apart.sum(0), atol=1e-4)
    assert np.abs(apart).max() > 1e-3


@pytest.mark.parametrize(
    ("target", "beta"), [(1e-9, 8.0), pytest.param(1e9, 0.125, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_ppo_adapts_its_kl_coefficient(target, beta):
    """One gradient step an iteration, and yet there is a KL to follow."""
    changes = {"objective": "kl", "num_minibatches": 1, "warmup": 0.0, "learning_rate": 0.02}
    algo = learner("ppo", "bandit-3", "exact", kl_target=target, **changes)
    state, metrics = jax.jit(
        lambda k: jax.lax.scan(lambda s, _: algo.step(s), algo.init(k), length=3)
    )(jax.random.key(0))
    assert (metrics["kl"] > 1e-8).all()
    assert state.kl_coefficient == beta


def gradients(algo, params, batch, targets, **changes):
    """What one update moves, with plain gradient ascent at rate 1: the gradient."""
    config = dataclasses.replace(
        algo.config, num_epochs=1, num_minibatches=1, micro_batches=1, **changes
    )
    new, _, _ = grpo.update(
        params,
        optax.identity().init(params),
        jax.random.key(0),
        batch,
        targets,
        evaluate=algo.evaluate,
        optimizer=optax.identity(),
        learning_rate=jnp.ones(()),
        entropy_coefficient=config.entropy_coefficient,
        objective=grpo.objective_of(config, algo.env.response_length),
        config=config,
    )
    return jax.tree.map(lambda a, b: a - b, params, new)


def close(a, b, atol=2e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


class TestInvariance:
    AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "token-sum-constant")

    @pytest.mark.parametrize("aggregation", [AGGREGATIONS[0], *slow(*AGGREGATIONS[1:])])
    def test_padding_order_and_micro_batches_do_not_show(self, aggregation):
        algo, state, rollout, _ = collected()
        batch = rollout.batch
        targets, _ = group_targets(batch, 8)
        batch, targets = jax.tree.map(np.asarray, (batch, targets))
        moved = jax.tree.map(lambda x: np.asarray(x) * 1.05, state.params)  # ratios are not 1
        find = jax.jit(lambda b, t: gradients(algo, moved, b, t, aggregation=aggregation))
        expected = find(batch, targets)
        assert max(np.abs(x).max() for x in jax.tree.leaves(expected)) > 1e-3
        order = np.random.default_rng(5).permutation(16)
        close(expected, find(*jax.tree.map(lambda x: x[:, order], (batch, targets))))
        behind = functools.partial(np.pad, pad_width=((0, 3), (0, 0)))
        padded, padded_targets = jax.tree.map(behind, (batch, targets))
        padded.obs["position"][-3:] = -1
        close(expected, find(padded, padded_targets))
        halves = [
            jax.tree.map(lambda x, s=s: x[:, s], (batch, targets))
            for s in (slice(0, 8), slice(8, 16))
        ]
        if aggregation != "token-mean":  # there, halves count by their tokens
            parts = [find(*half) for half in halves]
            close(expected, jax.tree.map(lambda a, b: (np.asarray(a) + b) / 2, *parts))


def test_at_ratio_one_it_is_reinforce():
    algo, state, rollout, _ = collected()
    targets, _ = group_targets(rollout.batch, 8)
    ours = jax.jit(
        lambda: gradients(algo, state.params, rollout.batch, targets, aggregation="token-mean")
    )()

    def objective(params):
        logp = algo.evaluate(params, rollout.batch.obs, rollout.batch.action).logp
        weighted = jnp.where(rollout.batch.mask, targets.advantage * logp, 0.0)
        return -jnp.sum(weighted) / jnp.sum(rollout.batch.mask)

    close(ours, jax.jit(jax.grad(objective))(state.params))


def test_one_token_is_a_bandit_of_control():
    """GRPO's gradient on one-token responses, by way of logits, is that of a table of logits."""
    algo, state, rollout, _ = collected(task="bandit-4")
    batch = rollout.batch
    targets, _ = group_targets(batch, 8)
    context = np.asarray(batch.obs["token"][0])

    def table(params):
        model = algo.network.module(params).policy
        return model.logits(model.hidden(batch.obs["token"].T, batch.obs["position"].T))[:, 0]

    def of_table(logits, obs, action):
        logp = jax.nn.log_softmax(logits[obs])
        chosen = jnp.take_along_axis(logp, action[..., None], axis=-1)[..., 0]
        return Evaluation(chosen, jnp.zeros_like(chosen), jnp.zeros_like(chosen))

    flat = dataclasses.replace(algo.config, num_epochs=1, num_minibatches=1)
    counts = np.bincount(context)[context]

    @jax.jit
    def by_way_of_the_table(params):
        logits, back = jax.vjp(table, params)
        rows = jnp.zeros((context.max() + 1, logits.shape[-1])).at[context].set(logits)
        control, _, _ = grpo.update(
            rows,
            optax.identity().init(rows),
            jax.random.key(0),
            batch._replace(obs=batch.obs["token"]),
            targets,
            evaluate=of_table,
            optimizer=optax.identity(),
            learning_rate=jnp.ones(()),
            entropy_coefficient=0.0,
            objective=grpo.objective_of(flat, 1),
            config=flat,
        )
        # The transformer's gradient is the table's, sent back through the network.
        return back((rows - control)[context] / counts[:, None])[0]

    ours = jax.jit(lambda p: gradients(algo, p, batch, targets))(state.params)
    close(ours, by_way_of_the_table(state.params), atol=1e-5)


def test_imitation_lowers_the_experts_surprise():
    algo = learner("sft", learning_rate=0.01, warmup=0.0, imitation_steps=0)
    run = jax.jit(lambda k: jax.lax.scan(lambda s, _: algo.step(s), algo.init(k), length=40)[1])
    loss = np.asarray(run(jax.random.key(0))["loss/policy"])
    assert loss[0] > 2.0
    assert loss[-1] < 0.75 * loss[0]


@pytest.mark.slow
def test_vmapped_seeds_equal_single_runs():
    algo = learner("grpo")
    keys = jax.random.split(jax.random.key(3), 2)
    together = jax.jit(jax.vmap(lambda k: algo.step(algo.init(k))))(keys)
    alone = first_step(algo, keys[1])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-4, rtol=1e-4),
        (together[0].params, together[1]),
        (alone[0].params, alone[1]),
    )


def test_many_logits_are_computed_in_parts(monkeypatch):
    algo, state, rollout, _ = collected()
    arguments = state.params, rollout.batch.obs, rollout.batch.action
    whole = jax.jit(lambda *a: algo.evaluate(*a))(*arguments)
    monkeypatch.setattr("agents.tokens.generation._MOST_LOGITS", 10)
    parts = jax.jit(lambda *a: algo.evaluate(*a))(*arguments)
    close(whole, parts)


def test_bfloat16_is_close():
    algo, state, rollout, _ = collected()
    rough = learner("grpo", dtype="bfloat16")
    arguments = state.params, rollout.batch.obs, rollout.batch.action
    a, b = (jax.jit(x.evaluate)(*arguments).logp for x in (algo, rough))
    np.testing.assert_allclose(a, b, atol=0.1)
    assert a.dtype == b.dtype == jnp.float32


def test_steps_rise_and_fall():
    algo = learner("grpo", learning_rate=1.0, total_steps=6400, warmup=0.1)  # 100 iterations
    rates = [float(algo.learning_rate(jnp.asarray(64 * i))) for i in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(0.91, abs=0.01)
    assert rates[-1] == pytest.approx(0.01)
    # And never turn round, should training go on.
    assert algo.learning_rate(jnp.asarray(2 * 6400)) == 0.0


@pytest.mark.parametrize("name", ["grpo", *slow("ppo")])
@pytest.mark.slow
def test_entropy_bonus_falls_to_zero(name):
    """Half way through the run it weighs half."""
    half = SMALL["total_steps"] // 2
    linear = {"entropy_coefficient": 0.4, "entropy_fraction": 1.0}

    def after_a_step(**changes):
        algo = learner(name, "bandit-3", "exact", imitation_steps=0, **changes)
        state = jax.jit(algo.init)(jax.random.key(0))
        state = dataclasses.replace(state, env_steps=jnp.asarray(half))
        return jax.jit(algo.step)(state)[0].params

    close(after_a_step(**linear), after_a_step(entropy_coefficient=0.2))
    with pytest.raises(AssertionError):
        close(after_a_step(**linear), after_a_step(entropy_coefficient=0.0))


def test_targets_are_those_of_the_papers():
    """RLOO: the mean of the others; rejection: what was wrong does not exist."""
    rloo, rejection = learner("rloo"), learner("rejection", "bandit-3", "exact")

    def spy(params, opt_state, *data, **settings):
        return params, opt_state, {"seen": data}

    def seen(algo):
        run = jax.jit(lambda key: algo.step(algo.init(key))[1]["seen"])
        return jax.tree.map(np.asarray, run(jax.random.key(0)))

    for algo in (rloo, rejection):
        algo.imitate = lambda params, key: params  # it takes the same update
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reinforce, "update", spy)
        (batch, targets), (kept, kept_targets) = seen(rloo), seen(rejection)
    scores = np.sum(np.where(batch.mask, batch.reward, 0), axis=0).reshape(2, 8)
    others = (scores.sum(1, keepdims=True) - scores) / 7
    expected = np.where(batch.mask, (scores - others).ravel(), 0)
    np.testing.assert_allclose(targets.advantage, expected, atol=1e-5)
    assert isinstance(kept_targets, Targets)
    np.testing.assert_array_equal(kept.mask[0], kept.reward[0] == 1)
    np.testing.assert_array_equal(kept_targets.advantage, kept.mask)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("grpo", {"group_size": 1}, "group_size must be at least 2"),
        ("rloo", {"group_size": 1}, "group_size must be at least 2"),
        ("grpo", {"kl_estimator": "k1"}, "expected gradient of zero"),
        ("grpo", {"num_responses": 20}, "does not divide into groups"),
        ("ppo", {"num_responses": 18}, "does not divide into num_minibatches"),
        ("reinforce", {"baseline": "value"}, 'must be "none" or "mean"'),
        ("grpo", {"top_k": 99}, "more than the vocabulary has"),
        ("reinforce", {"gamma": -3.0}, "gamma must be between 0 and 1, got -3.0"),
        ("reinforce", {"num_responses": 1}, "num_responses must be at least 2, got 1"),
        ("sft", {"num_responses": 0}, "num_responses must be at least 1"),
        ("grpo", {"rope_base": 0.0}, "rope_base must be positive, got 0.0"),
        ("grpo", {"rope_base": -1.0}, "rope_base must be positive, got -1.0"),
        ("rloo", {"kl_in_reward_target": 1.0}, "needs kl_in_reward above 0"),
        (
            "ppo",
            {"kl_in_reward": 0.1, "kl_in_reward_target": 1.0, "kl_horizon": 3},
            "kl_horizon must be more than a fifth of num_responses = 16, .* got 3",
        ),
    ],
)
def test_bad_settings(name, changes, message, unchecked):
    with pytest.raises(ValueError, match=message):
        learner(name, **changes)


@pytest.mark.parametrize(
    ("algorithms", "name", "fields"),
    [
        (ALGORITHMS, "sft", {"kl_in_reward", "kl_in_reward_target", "kl_horizon"}),
        (ALGORITHMS, "rejection", {"kl_in_reward", "kl_in_reward_target", "kl_horizon"}),
        (ALGORITHMS, "reinforce", {"value_coefficient"}),
        (agents.ALGORITHMS, "pqn", {"initial_log_std", "min_log_std"}),
    ],
)
def test_what_would_do_nothing_is_no_setting(algorithms, name, fields):
    names = {
        name: {f.name for f in dataclasses.fields(algorithms[name].Config)} for name in algorithms
    }
    assert not fields & names[name]
    assert fields <= names["ppo"]


def test_an_environment_without_words_is_refused():
    with pytest.raises(ValueError, match="learns token tasks"):
        ALGORITHMS["grpo"](ALGORITHMS["grpo"].Config(), probes.RewardIsAction())
