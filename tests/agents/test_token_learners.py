import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import agents
from agents import grpo, ppo, reinforce, token_learners
from agents.batch import Evaluation, Targets
from agents.groups import group_targets
from envs import probes
from envs.tokens import make_tokens

ALGORITHMS = agents.TOKEN_ALGORITHMS
SMALL = {
    "total_steps": 10_000,
    "num_responses": 16,
    "imitation_steps": 3,
    "imitation_responses": 16,
    "imitation_learning_rate": 0.02,
    "layers": 1,
    "width": 16,
    "heads": 2,
    "kv_heads": 1,
    "mlp_width": 16,
}


def learner(name, task="sort-3", reward="process", **changes):
    algorithm = ALGORITHMS[name]
    return algorithm(algorithm.Config(**{**SMALL, **changes}), make_tokens(task, reward))


@functools.cache
def collected(name="grpo", **changes):
    algo = learner(name, **changes)
    state, (written, metrics) = jax.jit(lambda k: algo.collect(algo.init(k)))(jax.random.key(0))
    return algo, state, written, metrics


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_bandit_is_solved(name):
    """A context, one right arm in three: every learner finds it."""
    changes = {"num_responses": 96, "learning_rate": 0.02, "total_steps": 60 * 96}
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


def test_the_robots_updates_are_used(monkeypatch):
    """PPO and GRPO of tokens call the very functions that PPO and GRPO of control call."""
    assert token_learners.ppo.update is ppo.update
    assert token_learners.grpo.update is grpo.update
    assert token_learners.reinforce.update is reinforce.update
    called = []
    for module in (ppo, grpo):
        real = module.update
        monkeypatch.setattr(
            module,
            "update",
            lambda *a, real=real, **k: called.append(real.__module__) or real(*a, **k),
        )
    for name in ("ppo", "grpo"):
        algo = learner(name)
        jax.eval_shape(algo.step, jax.eval_shape(algo.init, jax.random.key(0)))
        control = agents.ALGORITHMS[name]
        small = {"num_envs": 16, "num_steps": 4, "num_minibatches": 4}
        algo = control(control.Config(**small), probes.RewardIsAction())
        jax.eval_shape(algo.step, jax.eval_shape(algo.init, jax.random.key(0)))
    assert called == ["agents.ppo"] * 2 + ["agents.grpo"] * 2


def test_the_batch_is_what_was_written():
    algo, _, written, _ = collected()
    batch, size = jax.tree.map(np.asarray, written.batch), algo.env.prompt_length
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
        *_, metrics = collected(**changes)
        assert metrics["logp_diff_max"] < 1e-4


def test_a_group_has_one_prompt():
    algo, _, written, _ = collected()
    prompts = np.asarray(written.batch.obs["token"])[: algo.env.prompt_length].T.reshape(2, 8, -1)
    assert (prompts == prompts[:, :1]).all()
    assert (prompts[0] != prompts[1]).any()


def test_fractions_of_rewards_survive():
    *_, written, metrics = collected()
    totals = np.sum(written.batch.reward, axis=0)
    assert ((totals > 0) & (totals < 1)).any()
    np.testing.assert_allclose(metrics["train/return"], totals.mean(), rtol=1e-5)


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


@pytest.mark.parametrize(("target", "beta"), [(1e-9, 8.0), (1e9, 0.125)])
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
        config=config,
        longest=algo.env.response_length,
    )
    return jax.tree.map(lambda a, b: a - b, params, new)


def close(a, b, atol=2e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


class TestInvariance:
    AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "token-sum-constant")

    @pytest.mark.parametrize("aggregation", AGGREGATIONS)
    def test_padding_order_and_micro_batches_do_not_show(self, aggregation):
        algo, state, written, _ = collected()
        batch = written.batch
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
    algo, state, written, _ = collected()
    targets, _ = group_targets(written.batch, 8)
    ours = jax.jit(
        lambda: gradients(algo, state.params, written.batch, targets, aggregation="token-mean")
    )()

    def objective(params):
        logp = algo.evaluate(params, written.batch.obs, written.batch.action).logp
        weighted = jnp.where(written.batch.mask, targets.advantage * logp, 0.0)
        return -jnp.sum(weighted) / jnp.sum(written.batch.mask)

    close(ours, jax.jit(jax.grad(objective))(state.params))


def test_one_token_is_a_bandit_of_control():
    """GRPO's gradient on one-token responses, by way of logits, is that of a table of logits."""
    algo, state, written, _ = collected(task="bandit-4")
    batch = written.batch
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
            config=flat,
            longest=1,
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


def test_vmapped_seeds_equal_single_runs():
    algo = learner("grpo")
    keys = jax.random.split(jax.random.key(3), 2)
    together = jax.jit(jax.vmap(lambda k: algo.step(algo.init(k))))(keys)
    alone = jax.jit(lambda k: algo.step(algo.init(k)))(keys[1])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-4, rtol=1e-4),
        (together[0].params, together[1]),
        (alone[0].params, alone[1]),
    )


def test_many_logits_are_computed_in_parts(monkeypatch):
    algo, state, written, _ = collected()
    arguments = state.params, written.batch.obs, written.batch.action
    whole = jax.jit(lambda *a: algo.evaluate(*a))(*arguments)
    monkeypatch.setattr("agents.token_policy._MOST_LOGITS", 10)
    parts = jax.jit(lambda *a: algo.evaluate(*a))(*arguments)
    close(whole, parts)


def test_bfloat16_is_close():
    algo, state, written, _ = collected()
    rough = learner("grpo", dtype="bfloat16")
    arguments = state.params, written.batch.obs, written.batch.action
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


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_entropy_bonus_falls_to_zero(name):
    """Half way through the run it weighs half."""
    half = SMALL["total_steps"] // 2
    linear = {"entropy_coefficient": 0.4, "entropy_fraction": 1.0}

    def after_a_step(**changes):
        algo = learner(name, "bandit-3", "exact", imitation_steps=0, **changes)
        state = dataclasses.replace(algo.init(jax.random.key(0)), env_steps=jnp.asarray(half))
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
