"""Token tasks as environments, and what every task's verdicts have in common."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import base
from envs.tokens import TokenEnv, make_task, make_tokens
from envs.tokens.countdown import Countdown, all_expressions, value_of
from envs.tokens.digits import Sort
from envs.tokens.graph_path import GraphPath
from envs.tokens.task import EOS, in_split

N = 256


def attempts(env, prompts):
    """A quarter of them right answers; in the others one token is changed. With their lengths."""
    rng = np.random.default_rng(0)
    responses = np.array(jax.jit(env.solutions)(prompts))
    rows = np.arange(N // 4, N)
    places = rng.integers(0, env.response_length, len(rows))
    responses[rows, places] = rng.integers(0, env.vocabulary_size, len(rows))
    if env.stop is None:
        return responses, np.full(N, env.response_length, np.int32)
    first = np.argmax(responses == env.stop, axis=1) + 1
    ended = (responses == env.stop).any(axis=1)
    return responses, np.where(ended, first, env.response_length).astype(np.int32)


def play(env, starts, responses):
    def one(running, response):
        step = lambda r, action: base.advance(env, jax.random.key(1), r, action)  # noqa: E731
        return jax.lax.scan(step, running, response)[1]

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(starts, responses))


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("add-1", "exact"),
        ("reverse-3", "process"),
        ("countdown", "process"),
        pytest.param("graph-path-4", "rule", marks=pytest.mark.slow),
        ("bandit", "rule"),
    ],
)
def test_step_by_step_as_at_once(task, kind):
    """So each token's reward is known when it is written: no later token changes it."""
    env = make_tokens(task, kind)
    reset = jax.jit(jax.vmap(lambda key: base.reset(env, key)[0]))
    starts = reset(jax.random.split(jax.random.key(0), N))
    prompts = starts.state.sequence[:, : env.prompt_length]
    responses, length = attempts(env, prompts)
    rewards, correct = jax.jit(env.score)(prompts, responses, length)
    found = play(env, starts, responses)
    place = np.arange(env.response_length)
    inside, last = place < length[:, None], place == length[:, None] - 1
    np.testing.assert_array_equal(np.where(inside, found.reward, 0), rewards)
    np.testing.assert_array_equal(found.terminated & inside, last)
    assert not (found.truncated & inside).any()
    np.testing.assert_array_equal(found.info["correct"][last], correct)
    ended = responses[last] == EOS
    np.testing.assert_array_equal(found.info["cut"][last], ~ended & (env.stop is not None))
    # Nothing pays more than a right answer, and a wrong one less.
    total = np.asarray(rewards).sum(axis=1)
    np.testing.assert_allclose(total[correct], 1.0, rtol=1e-6)
    assert total[~correct].max() < 0.9


@pytest.mark.parametrize("last", [EOS, 5])
def test_gymnasium_calls_no_response_truncated(last):
    env = gymnasium.make("stride/tokens-sort")
    obs, _ = env.reset(seed=0)
    assert obs.shape == (14,)
    shown = [env.step(action)[2:4] for action in [5] * 6 + [last]]
    assert shown == [(False, False)] * 6 + [(True, False)]


def test_gymnasiums_vector_environment():
    env = gymnasium.make_vec("stride/tokens-sort", num_envs=2, reward="rule")
    env.reset(seed=0)
    for t in range(7):
        _, reward, terminated, truncated, infos = env.step(np.array([5, EOS]))
        assert terminated.tolist() == [t == 6, True]
        assert not truncated.any()
        assert reward[1] == -1
    assert infos["final_info"]["cut"].tolist() == [1, 0]


def test_episodes_keep_to_their_split():
    keys = jax.random.split(jax.random.key(0), 64)
    for split in ("train", "held-out"):
        env = make_tokens("sort", split=split)
        states = jax.jit(jax.vmap(env.initial))(keys)
        assert in_split(env.task, states.sequence[:, : env.prompt_length], split).all()
        held_out = env.held_out(jax.random.key(1), 8)
        assert in_split(env.task, held_out, "held-out").all()


def test_a_bandit_has_one_split():
    env = make_tokens("bandit", split="held-out")
    contexts = env.prompts(jax.random.key(0), 256)
    assert len(np.unique(contexts)) == 10
    assert len(np.unique(env.solutions(contexts))) == 10


@pytest.mark.parametrize("numbers", [2, 3, 4])
def test_expressions_of_the_largest_numbers(numbers):
    """Every one there is, once, against Python's integers."""
    programs, largest = all_expressions(numbers), 99 // numbers
    given = jnp.full(numbers, largest, jnp.int32)
    found = jax.jit(jax.vmap(value_of, (0, None)))(programs, given)
    assert len(np.unique(programs, axis=0)) == len(programs) == {2: 6, 3: 108, 4: 3240}[numbers]
    for program, value in zip(programs.tolist(), found.tolist(), strict=True):
        stack = []
        for code in program:
            if code < numbers:
                stack.append(largest)
                continue
            right, left = stack.pop(), stack.pop()
            stack.append((left + right, left - right, left * right)[code - numbers])
        assert stack == [value]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenEnv(make_task("sort"), "exactly"), "reward must be one of exact, process"),
        (lambda: TokenEnv(make_task("sort"), split="test"), "split must be one of train, held-out"),
        (lambda: Countdown(3, largest=1), "largest must be between 2 and 33, got 1"),
        (lambda: GraphPath(3), "nodes must be between 4 and 26, got 3"),
        (lambda: GraphPath(5, 7), "extra_edges must be between 0 and 6, got 7"),
    ],
)
def test_impossible_tasks(make, message, unchecked):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", [Countdown(2, 2), Countdown(3, 2), Countdown(4, 2), Sort(1)])
def test_the_smallest_tasks_have_prompts_to_hold_out(task):
    every = jax.vmap(task.sample)(jax.random.split(jax.random.key(0), 512))
    held_out = in_split(task, every, "held-out")
    assert held_out.any()
    assert not held_out.all()


def test_a_name_of_ones_own_may_begin_like_a_task(monkeypatch):
    monkeypatch.setattr(envs, "_FACTORIES", dict(envs._FACTORIES))
    envs.register("tokens-mine", lambda: make_tokens("sort-2"))
    assert envs.make("tokens-mine").response_length == 3
