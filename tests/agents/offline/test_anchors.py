"""Known answers of learners from data: another learner where a setting is 0, and losses in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import envs
from agents import sac
from agents.core import value_losses
from agents.offline import cql, iql, policies, td3_bc
from agents.offline.awr import AWR, AWRConfig
from agents.offline.bc import BC, BCConfig
from agents.offline.cql import CQL, CQLConfig
from agents.offline.data import draw, offline_data, take
from agents.offline.iql import IQL, IQLConfig
from agents.offline.percent_bc import PercentBC, PercentBCConfig
from agents.offline.td3_bc import TD3BC, TD3BCConfig
from agents.spaces import encode
from envs.tabular.toy_text import make_frozen_lake
from tests.agents.offline.small import random_data, stepped

SIZES = {"hidden_sizes": (8,), "batch_size": 16, "total_steps": 8}
STEPS = 3


@pytest.fixture(scope="module")
def env():
    return envs.make("Pendulum-v1")


@pytest.fixture(scope="module")
def data(env):
    return random_data(env)


def assert_equal(a, b, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=atol), a, b)


def with_actor(algo, actor):
    """Lets every run of a learner begin with the same policy."""
    first = algo.init

    def init(key):
        state = first(key)
        return state.replace(params=state.params._replace(actor=actor))

    algo.init = init
    return algo


def imitator(env, **settings):
    algo = BC(BCConfig(**SIZES, **settings), env)
    params = algo.actor.init(jax.random.key(7))
    first = algo.init
    algo.init = lambda key: first(key).replace(params=params)
    return algo, params


@pytest.mark.parametrize("critic", ["returns", "q"])
def test_awr_at_beta_0_is_bc(env, data, critic):
    bc, actor = imitator(env, policy="stochastic")
    awr = with_actor(AWR(AWRConfig(**SIZES, beta=0.0, critic=critic), env), actor)
    keyed = functools.partial(stepped, data=data, steps=STEPS)
    same = {"key": jax.random.key(3)}
    for algo in (bc, awr):
        first = algo.init
        algo.init = lambda key, first=first: first(key).replace(**same)
    assert_equal(keyed(awr)[0].params.actor, keyed(bc)[0].params)


def test_iql_at_beta_0_is_bc(env, data):
    bc, actor = imitator(env, policy="stochastic")
    learner = with_actor(IQL(IQLConfig(**SIZES, beta=0.0), env), actor)
    same = {"key": jax.random.key(3)}
    for algo in (bc, learner):
        first = algo.init
        algo.init = lambda key, first=first: first(key).replace(**same)
    found, wanted = (stepped(algo, data, STEPS)[0].params for algo in (learner, bc))
    assert_equal(found.actor, wanted)


def test_td3_bc_at_alpha_0_is_bc(env, data):
    bc, actor = imitator(env)
    learner = with_actor(TD3BC(TD3BCConfig(**SIZES, alpha=0.0, policy_delay=1), env), actor)
    same = {"key": jax.random.key(3)}
    for algo in (bc, learner):
        first = algo.init
        algo.init = lambda key, first=first: first(key).replace(**same)
    found, wanted = (stepped(algo, data, STEPS)[0].params for algo in (learner, bc))
    assert_equal(found.actor, wanted)


def test_percent_bc_of_everything_is_bc(env, data):
    settings = {**SIZES, "best_fraction": 1.0}
    every = stepped(PercentBC(PercentBCConfig(**settings), env), data, STEPS)[0].params
    assert_equal(every, stepped(BC(BCConfig(**SIZES), env), data, STEPS)[0].params)


def test_cql_at_alpha_0_is_sac(env, data):
    """A gradient step is soft actor-critic's, on the same sample with the same key."""
    rate = SIZES | {"learning_rate": 1e-3, "actor_learning_rate": 1e-3}
    learner = CQL(CQLConfig(**rate, alpha=0.0), env)
    config = sac.SACConfig(hidden_sizes=(8,), learning_rate=1e-3)
    theirs = sac.SAC(config, env)
    state = jax.jit(learner.init)(jax.random.key(0))
    sample = take(data, draw(data, jax.random.key(1), 16), 0.99)
    arguments = state.params, state.opt_state, sample, jax.random.key(2), state.updates
    opt_state = sac.SACOptState(
        *(theirs.optimizer.init(p) for p in (state.params[0], state.params[1], state.params[3]))
    )
    found = jax.jit(learner.update)(*arguments)
    wanted = jax.jit(theirs.update)(arguments[0], opt_state, *arguments[2:])
    assert_equal(found[0], wanted[0])


def test_expectiles():
    error = np.array([-2.0, -0.5, 0.0, 1.0, 3.0], np.float32)
    for tau in (0.5, 0.7, 0.95):
        wanted = [abs(tau - (u < 0)) * u * u for u in error]
        np.testing.assert_allclose(iql.expectile_loss(jnp.asarray(error), tau), wanted, rtol=1e-6)
    half = iql.expectile_loss(jnp.asarray(error), 0.5)
    squared = value_losses.squared_error(jnp.asarray(error), jnp.zeros(5))
    np.testing.assert_allclose(half, squared, rtol=1e-6)


@pytest.mark.parametrize(("tau", "wanted"), [(0.5, 1.0), (0.999, 4.0)])
def test_the_minimum_is_the_mean_at_one_half_and_the_largest_towards_1(tau, wanted):
    values = jnp.array([-2.0, 0.0, 2.0, 4.0])

    def descend(_, v):
        slope = jax.grad(lambda v: jnp.mean(iql.expectile_loss(values - v, tau)))(v)
        return v - 0.5 * slope

    assert float(jax.lax.fori_loop(0, 5000, descend, 0.0)) == pytest.approx(wanted, abs=0.03)


def mlp(params, x):
    """A network of one hidden layer in NumPy."""
    layers = nnx.to_pure_dict(params)
    layers = layers["body"]["layers"] if "body" in layers else layers["layers"]
    first, second = (jax.tree.map(np.asarray, layers[i]) for i in range(2))
    hidden = np.maximum(x @ first["kernel"] + first["bias"], 0)
    return hidden @ second["kernel"] + second["bias"]


def test_the_actors_loss_of_td3_bc_in_numpy(env, data):
    learner = TD3BC(TD3BCConfig(**SIZES), env)
    params = jax.jit(learner.init)(jax.random.key(0)).params
    sample = take(data, jnp.arange(16), 0.99)
    found = td3_bc.actor_loss(params.actor, params.critics, sample, learner.networks, alpha=2.5)
    obs = np.asarray(sample.obs)
    mu = np.tanh(mlp(params.actor, obs))
    critic = jax.tree.map(lambda x: x[0], params.critics)
    q = mlp(critic, np.concatenate([obs, mu], 1))[:, 0]
    size = 2.5 / np.abs(q).mean()
    wanted = -size * q.mean() + np.square(mu - np.asarray(sample.action)).mean()
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_a_step_of_iql_in_numpy(env, data):
    """Losses and the weight of imitation, before and after the value's step."""
    config = IQLConfig(**SIZES, learning_rate=1e-2)
    learner = IQL(config, env)
    state = jax.jit(learner.init)(jax.random.key(0))
    params, sample = state.params, take(data, jnp.arange(16), 0.99)
    new, _, _, metrics = jax.jit(learner.update)(
        params, state.opt_state, sample, jax.random.key(1), state.updates
    )
    obs, action, following = (np.asarray(x) for x in (sample.obs, sample.action, sample.next_obs))
    twins = [jax.tree.map(lambda x, i=i: x[i], params.targets) for i in range(2)]
    both = np.concatenate([obs, action], 1)
    q = np.min([mlp(twin, both)[:, 0] for twin in twins], axis=0)
    u = q - mlp(params.value, obs)[:, 0]
    value_loss = np.mean(np.where(u < 0, 1 - config.expectile, config.expectile) * u**2)
    np.testing.assert_allclose(metrics["loss/value"], value_loss, rtol=1e-4)
    later = np.where(np.asarray(sample.terminated), 0.0, mlp(new.value, following)[:, 0])
    y = np.asarray(sample.reward) + 0.99 * later
    errors = [0.5 * np.square(mlp(twin, both)[:, 0] - y) for twin in twins]
    np.testing.assert_allclose(metrics["loss/critic"], np.mean(np.sum(errors, 0)), rtol=1e-4)
    advantage = q - mlp(new.value, obs)[:, 0]
    weight = np.minimum(np.exp(config.beta * advantage), policies.MAX_WEIGHT)
    np.testing.assert_allclose(metrics["weight"], weight.mean(), rtol=1e-4)
    mean = np.tanh(mlp(params.actor, obs))
    logp = -0.5 * np.square(action - mean).sum(1) - 0.5 * np.log(2 * np.pi) * action.shape[1]
    np.testing.assert_allclose(metrics["loss/actor"], -np.mean(weight * logp), rtol=1e-4)


def test_weights_are_bounded_and_never_overflow():
    advantage = jnp.array([-1e9, 0.0, 1.0, 1e9])
    weight = policies.exponential_weight(advantage, 3.0)
    np.testing.assert_allclose(weight, [0.0, 1.0, np.exp(3.0), 100.0], rtol=1e-5)


def test_the_discrete_penalty_in_numpy():
    q = np.random.default_rng(0).normal(size=(5, 2, 4)).astype(np.float32)
    choice = np.array([[0, 3], [1, 1], [2, 0], [3, 3], [0, 0]], np.int32)
    wanted = [
        np.mean([np.log(np.exp(q[b, d]).sum()) - q[b, d, choice[b, d]] for d in range(2)])
        for b in range(5)
    ]
    found = cql.discrete_penalty(jnp.asarray(q), jnp.asarray(choice), alpha=2.0)
    np.testing.assert_allclose(found, 2 * np.mean(wanted), rtol=1e-5)


@pytest.mark.slow
def test_the_sampled_penalty_estimates_the_integral(env, data):
    """With many samples it is log of the integral of exp Q over actions, less Q of the data."""
    learner = CQL(CQLConfig(**SIZES), env)
    params = jax.jit(learner.init)(jax.random.key(0)).params
    # Deviations of 1 before the tanh: a narrow policy would hardly sample the ends of the range.
    wide = jnp.array([0.0, 0.458])
    actor = jax.tree.map(lambda x: wide if x.shape == (2,) else x, params.actor)
    params = params._replace(actor=actor)
    sample = take(data, jnp.arange(4), 0.99)
    found = cql.conservative_penalty(
        params.critics,
        params,
        sample,
        jax.random.key(1),
        networks=learner.networks,
        alpha=1.0,
        num_samples=4000,
    )
    grid = np.linspace(-1, 1, 2001)[:, None]
    wanted = 0.0
    for i in range(2):
        twin = jax.tree.map(lambda x, i=i: x[i], params.critics)
        for b in range(4):
            obs = np.asarray(sample.obs[b])
            q = mlp(twin, np.concatenate([np.tile(obs, (len(grid), 1)), grid], 1))[:, 0]
            integral = np.log(2.0 * np.mean(np.exp(q)))
            data_q = mlp(twin, np.concatenate([obs, np.asarray(sample.action[b])]))[0]
            wanted += (integral - data_q) / 4
    assert float(found) == pytest.approx(wanted, abs=0.05)


LAKE_GAMMA = 0.9


@pytest.fixture(scope="module")
def lake():
    """A lake that does not slip: each state with each action once, as episodes of a step, and Q*."""
    env = make_frozen_lake(is_slippery=False)
    states, actions, _ = env.probabilities.shape
    s, a = (x.ravel().astype(np.int32) for x in np.indices((states, actions)))
    outcome = np.argmax(np.asarray(env.probabilities), axis=-1)[s, a]
    following, reward, ended = (
        np.asarray(x)[s, a, outcome] for x in (env.next_states, env.rewards, env.terminals)
    )
    q = np.zeros((states, actions))
    for _ in range(100):
        after = np.where(ended, 0.0, q.max(1)[following])
        q = (reward + LAKE_GAMMA * after).reshape(states, actions)
    data = offline_data(
        s, a, reward, following, ended, ~ended, lambda x: encode(env.observation_space, x)
    )
    return env, data, q


TABLE = {
    "hidden_sizes": (),  # of one-hot states: a table
    "batch_size": 64,
    "gamma": LAKE_GAMMA,
    "tau": 0.1,
    "learning_rate": 0.02,
}


def trained(algo, data, steps):
    algo.iteration_steps = steps
    state = jax.jit(algo.init)(jax.random.key(0))
    return jax.jit(algo.step)(state, data)[0]


def greedy_return(env, algo, state):
    """Discounted return of the deterministic policy from the start."""
    s, total, discount = 0, 0.0, 1.0
    for _ in range(20):
        a = int(algo.act(state, jnp.int32(s), jax.random.key(0), True))
        total += discount * float(env.rewards[s, a, 0])
        discount *= LAKE_GAMMA
        if env.terminals[s, a, 0]:
            break
        s = int(env.next_states[s, a, 0])
    return total


def test_iql_reaches_the_optimal_values_of_a_table(lake):
    """Its two regressions on tables: V by the expectile over the data's actions, Q by the target from V."""
    _, data, q = lake
    shape, following = q.shape, data.next_obs
    values = iql.expectile_loss

    @jax.jit
    def sweep(v):
        target = value_losses.td_target(data.reward, v[following], data.terminated, LAKE_GAMMA)
        table = target.reshape(shape)

        def descend(_, v):
            return v - jax.grad(lambda v: jnp.sum(values(table - v[:, None], 0.9999)))(v) / 4

        return jax.lax.fori_loop(0, 60, descend, v), table

    v = jnp.zeros(shape[0])
    for _ in range(20):
        v, table = sweep(v)
    np.testing.assert_allclose(table, q, atol=0.01)
    np.testing.assert_allclose(v, q.max(1), atol=0.01)


def test_discrete_cql_reaches_the_optimal_values_of_a_table(lake):
    env, data, q = lake
    learner = CQL(CQLConfig(**TABLE, alpha=1e-3), env)
    state = trained(learner, data, 4000)
    found = learner.q_network.module(state.params.online)(jnp.eye(16))[:, 0]
    goes_on = np.isin(np.arange(16), [5, 7, 11, 12, 15], invert=True)
    np.testing.assert_allclose(found[goes_on], q[goes_on], atol=0.05)
    assert greedy_return(env, learner, state) == pytest.approx(q[0].max(), abs=1e-4)
