import dataclasses
import functools
import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import base
from envs.tokens import (
    TokenFactory,
    make_task,
    make_tokens,
    plain_name,
    register_task,
    task_names,
)
from envs.tokens.countdown import Countdown
from envs.tokens.digits import Sort
from envs.tokens.task import (
    EOS,
    PAD,
    Verdict,
    decode,
    in_split,
    judge_exact,
    prompts,
    token_rewards,
)

NAMES = [
    "sort",
    "sort-3",
    "add",
    "add-3",
    "reverse",
    "countdown",
    "countdown-4",
    "graph-path",
    "bandit",
]


N = 512  # prompts: one number for all, so that a task's three programs are compiled once for all tests


@functools.cache
def program(task, name, split="train"):
    """Equal tasks share their compiled programs."""
    if name == "prompts":
        return jax.jit(lambda key: prompts(task, key, N, split))
    return jax.jit(jax.vmap(getattr(task, name)))


def batch(task, seed=0, split="train"):
    return np.asarray(program(task, "prompts", split)(jax.random.key(seed)))


def solutions(task, given):
    return np.asarray(program(task, "solution")(given))


def lengths(task, responses):
    if task.stop is None:
        return np.full(len(responses), task.response_length, np.int32)
    return np.argmax(np.asarray(responses) == task.stop, axis=1).astype(np.int32) + 1


def verify(task, given, responses, length=None):
    length = lengths(task, responses) if length is None else length
    found = program(task, "verify")(given, responses, length)
    return jax.tree.map(np.asarray, found)


def words(task, tokens):
    return decode(task, np.asarray(tokens)).removesuffix(" <eos>").split()


@pytest.mark.parametrize("name", NAMES)
def test_the_experts_answers_are_right_and_earn_one(name):
    task = make_task(name)
    given = batch(task)
    answers = solutions(task, given)
    verdict = verify(task, given, answers)
    assert verdict.correct.all()
    assert verdict.well_formed.all()
    np.testing.assert_allclose(verdict.credit.sum(axis=1), 1.0, rtol=1e-6)
    assert given.shape == (N, task.prompt_length)
    assert answers.shape == (N, task.response_length)
    assert max(given.max(), answers.max()) < len(task.vocabulary)


@pytest.mark.parametrize("name", NAMES)
def test_what_follows_the_end_is_ignored(name):
    task = make_task(name)
    given = batch(task)
    answers = solutions(task, given)
    length = lengths(task, answers)
    noise = np.random.default_rng(5).integers(0, len(task.vocabulary), answers.shape, np.int32)
    noisy = np.where(np.arange(answers.shape[1]) < length[:, None], answers, noise)
    jax.tree.map(
        np.testing.assert_array_equal,
        verify(task, given, answers, length),
        verify(task, given, noisy, length),
    )


@pytest.mark.parametrize("name", [n for n in NAMES if n != "bandit"])
def test_without_an_end_nothing_is_right(name):
    task = make_task(name)
    given = batch(task)
    answers = solutions(task, given)
    full = np.where(answers <= EOS, 2, answers)
    length = np.full(N, task.response_length, np.int32)
    verdict = verify(task, given, full, length)
    assert not verdict.correct.any()
    assert not verdict.well_formed.any()


@pytest.mark.parametrize("name", NAMES)
def test_nobody_is_right_by_chance_more_than_he_should_be(name):
    """Random responses against an independent judge in plain Python."""
    task = make_task(name)
    given = batch(task)
    rng = np.random.default_rng(0)
    answers = solutions(task, given)
    # One token of a right answer changed: near misses, some of which are right all the same.
    place = rng.integers(0, task.response_length, len(given))
    spoilt = answers.copy()
    spoilt[np.arange(len(given)), place] = rng.integers(1, len(task.vocabulary), len(given))
    ended = [EOS in row for row in spoilt]
    length = np.where(ended, np.argmax(spoilt == EOS, axis=1) + 1, task.response_length)
    found = verify(task, given, spoilt, length.astype(np.int32))
    for i, (prompt, response) in enumerate(zip(given, spoilt, strict=True)):
        finished = task.stop is None or ended[i]
        told = [task.vocabulary[t] for t in response[: length[i]] if t != EOS]
        right = finished and judge(name, words(task, prompt), told)
        assert bool(found.correct[i]) == right, (words(task, prompt), told)
        assert bool(found.well_formed[i]) or not right


def judge(name, prompt, response):
    kind = name.rstrip("-0123456789")
    if kind == "sort":
        return response == sorted(prompt[:-1])
    if kind == "reverse":
        return response == prompt[-2::-1]
    if kind == "add":
        return _sum(prompt) == "".join(response)
    if kind == "countdown":
        return _countdown(prompt, response)
    if kind == "graph-path":
        return _path(prompt, response)
    context = int(prompt[0].removeprefix("context"))
    return response == [f"arm{(context + 5) % 10}"]


def _sum(prompt):
    plus = prompt.index("+")
    a, b = (int("".join(part[::-1])) for part in (prompt[:plus], prompt[plus + 1 : -1]))
    return str(a + b).zfill(plus + 1)[::-1]


def _countdown(prompt, response):
    stack = []
    symbols = {"+": operator.add, "-": operator.sub, "*": operator.mul}
    for token in response:
        if token in symbols:
            if len(stack) < 2:
                return False
            right, left = stack.pop(), stack.pop()
            stack.append(symbols[token](left, right))
        elif token.isdigit():
            stack.append(int(token))
        else:
            return False
    used = sorted(t for t in response if t.isdigit())
    return used == sorted(prompt[:-2]) and stack == [int(prompt[-1])]


def _path(prompt, response):
    pairs = [frozenset(prompt[i : i + 2]) for i in range(0, len(prompt) - 3, 2)]
    start, goal = prompt[-2:]
    return (
        len(response) > 0
        and response[0] == start
        and response[-1] == goal
        and len(set(response)) == len(response)
        and all(frozenset(p) in pairs for p in itertools.pairwise(response))
    )


@pytest.mark.parametrize("name", ["sort", "add", "countdown", "graph-path"])
def test_no_prompt_is_in_both_splits(name):
    task = make_task(name)
    held_out, train = ({tuple(p) for p in batch(task, split=s)} for s in ("held-out", "train"))
    assert not held_out & train
    every = program(task, "sample")(jax.random.split(jax.random.key(1), 4096))
    held_out, train = (
        np.asarray(jax.jit(lambda p, s=s: in_split(task, p, s))(every))
        for s in ("held-out", "train")
    )
    assert 0.09 < held_out.mean() < 0.16
    assert (held_out ^ train).all()


def spelt_otherwise(name, prompt):
    """The same question in other words, as a list of tokens."""
    rng, last = np.random.default_rng(0), len(prompt) - 1
    if name == "sort":
        return [*rng.permutation(prompt[:last]), prompt[last]]
    if name == "add":
        n = last // 2
        return [*prompt[n + 1 : last], prompt[n], *prompt[:n], prompt[last]]
    if name == "countdown":
        return [*rng.permutation(prompt[: last - 1]), *prompt[last - 1 :]]
    pairs = rng.permutation(np.asarray(prompt[: last - 2]).reshape(-1, 2))
    return [*pairs[:, ::-1].ravel(), prompt[last - 2], prompt[last], prompt[last - 1]]


@pytest.mark.parametrize("name", ["sort", "add", "countdown", "graph-path"])
def test_no_question_is_in_both_splits_however_it_is_spelt(name):
    task = make_task(name)
    every = program(task, "sample")(jax.random.split(jax.random.key(1), N))
    others = np.array([spelt_otherwise(name, p) for p in np.asarray(every).tolist()], np.int32)
    assert (others != every).any(axis=1).mean() > 0.8
    look = jax.jit(lambda p: in_split(task, p, "held-out"))
    np.testing.assert_array_equal(look(every), look(others))
    forms = program(task, "canonical")
    np.testing.assert_array_equal(forms(every), forms(others))
    # Other questions have other forms: as many as there are sets of them, counted independently.
    if name == "sort":
        assert len(np.unique(forms(every), axis=0)) == len(
            {tuple(sorted(p)) for p in every.tolist()}
        )


@dataclasses.dataclass(frozen=True)
class One(Sort):
    """Always the same prompt."""

    def sample(self, key):
        return super().sample(jax.random.key(0))


def test_a_task_with_nothing_to_hold_out_is_refused():
    with pytest.raises(
        ValueError, match=r"of 1024 prompts of One none is in the split .* splits = False"
    ):
        make_tokens(One(digits=3))


def test_prompts_follow_from_the_key():
    task = make_task("sort")
    np.testing.assert_array_equal(batch(task), batch(task))
    assert (batch(task) != batch(task, seed=1)).any()


def test_a_shortest_path_is_shown():
    task = make_task("graph-path")
    given = batch(task)
    for prompt, answer in zip(given, solutions(task, given), strict=True):
        told, path = words(task, prompt), words(task, answer)
        pairs = [frozenset(told[i : i + 2]) for i in range(0, len(told) - 3, 2)]
        assert len(set(pairs)) == task.edges
        level, seen, steps = {told[-2]}, {told[-2]}, 0
        while told[-1] not in level:
            level = {b for p in pairs if p & level for b in p} - seen
            seen |= level
            steps += 1
        assert len(path) == steps + 1


def test_countdown_counts_every_way():
    """3 + 4 * 2 in its spellings; a number used twice, or a wrong one, does not count."""
    task = Countdown(numbers=3, largest=10)
    ids = {name: i for i, name in enumerate(task.vocabulary)}

    def tokens(text):
        return jnp.array([ids[w] for w in text.split()])

    given = tokens("3 4 2 = 11")
    check = jax.jit(task.verify)
    verdicts = {
        text: check(given, tokens(text + " <eos>"), jnp.int32(6))
        for text in ("3 4 2 * +", "4 2 * 3 +", "2 4 * 3 +", "4 4 + 3 +", "9 2 0 + +", "3 + 4 2 *")
    }
    assert [bool(v.correct) for v in verdicts.values()] == [True, True, True, False, False, False]
    wrong = check(given, tokens("3 4 + 2 + <eos>"), jnp.int32(6))
    assert not wrong.correct
    assert wrong.well_formed
    np.testing.assert_allclose(wrong.credit, [0, 0, 0, 0, 0, 0.1])


def test_rewards_by_hand():
    verdict = Verdict(jnp.array(True), jnp.array(True), jnp.array([0.25, 0.25, 0.5, 0.0]))
    assert token_rewards("exact", verdict, jnp.int32(3)).tolist() == [0, 0, 1, 0]
    assert token_rewards("process", verdict, jnp.int32(2)).tolist() == [0.25, 0.25, 0, 0]
    with pytest.raises(ValueError, match="share needs a task with one right answer"):
        token_rewards("share", verdict, jnp.int32(3))
    wrong = verdict._replace(correct=jnp.array(False))
    np.testing.assert_allclose(token_rewards("rule", wrong, jnp.int32(2)), [0, 0.2, 0, 0])
    formless = wrong._replace(well_formed=jnp.array(False))
    assert token_rewards("rule", formless, jnp.int32(4)).tolist() == [0, 0, 0, -1]
    assert token_rewards("exact", formless, jnp.int32(4)).tolist() == [0, 0, 0, 0]


def test_share_counts_right_tokens_behind_a_wrong_one():
    expected = jnp.array([3, 4, 5, 6, EOS])
    response = jnp.array([3, 9, 5, 6, EOS])
    verdict = judge_exact(expected, response, jnp.int32(5), jnp.array(True))
    np.testing.assert_allclose(
        token_rewards("share", verdict, jnp.int32(5)), [0.2, 0, 0.2, 0.2, 0.2]
    )
    np.testing.assert_allclose(token_rewards("process", verdict, jnp.int32(5)), [0.2, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="share needs a task with one right answer"):
        make_tokens("countdown", "share")


@pytest.mark.parametrize("kind", ["exact", "process", "share", "rule"])
def test_token_by_token_it_is_worth_the_same(kind):
    """The environment stepped with whole responses, right ones and spoilt ones, pays what `score` says."""
    env = make_tokens("sort-3", kind)
    task = env.task
    reset = jax.jit(jax.vmap(lambda key: base.reset(env, key)[0]))
    starts = reset(jax.random.split(jax.random.key(0), 24))
    given = np.asarray(starts.state.sequence)[:, : task.prompt_length]
    responses = solutions(task, given).copy()
    responses[8:16, 1] = EOS  # ended early
    responses[16:, -1] = 3  # not at all
    length = np.where(np.any(responses == EOS, 1), lengths(task, responses), 4).astype(np.int32)
    rewards, correct = jax.jit(env.score)(given, responses, length)

    def play(running, response):
        def step(running, action):
            running, timestep = base.advance(env, jax.random.key(1), running, action)
            return running, timestep

        return jax.lax.scan(step, running, response)[1]

    found = jax.tree.map(np.asarray, jax.jit(jax.vmap(play))(starts, responses))
    inside = np.arange(4) < length[:, None]
    np.testing.assert_allclose(np.where(inside, found.reward, 0), rewards, atol=1e-6)
    last = np.arange(4) == length[:, None] - 1
    np.testing.assert_array_equal(found.terminated & inside, last)
    assert not found.truncated.any()
    np.testing.assert_array_equal((found.info["correct"] * last).sum(1), correct)
    np.testing.assert_array_equal((found.info["cut"] * last).sum(1), [0] * 16 + [1] * 8)


def test_padding_inside_of_an_answer_is_shown():
    """Without it a wrong answer would look right."""
    task = make_task("sort-3")
    assert decode(task, [PAD, PAD, 4, 2, 3, EOS]) == "2 0 1 <eos>"
    assert decode(task, [2, PAD, 3, EOS, PAD, PAD]) == "0 <pad> 1 <eos>"
    assert decode(task, [PAD, 2, PAD, EOS], 4) == "<pad> 0 <pad> <eos>"
    assert decode(task, [2, PAD, PAD, PAD], 2) == "0 <pad>"
    assert decode(task, [PAD, PAD]) == ""


def test_names():
    assert {"sort", "add", "reverse", "countdown", "graph-path", "bandit"} <= set(task_names())
    assert envs.make("tokens-sort-4").task == Sort(4)
    assert make_tokens("sort").prompt_length == 7


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("sort-6", "sort"),
        ("sort-06", "sort"),
        ("sort-04", "sort-4"),
        ("add-2", "add"),
        ("countdown-3", "countdown"),
        ("graph-path-6", "graph-path"),
        ("graph-path", "graph-path"),
        ("nothing-3", "nothing-3"),
    ],
)
def test_a_size_that_a_task_has_anyway_is_no_other_task(name, plain):
    assert plain_name(name) == plain


def test_options_of_a_task_make_its_environment():
    assert envs.make("tokens-countdown", largest=9, reward="rule").task == Countdown(3, 9)
    assert envs.make("tokens-sort-4", digits=4, reward="process").reward_kind == "process"
    with pytest.raises(ValueError, match="sort-4 has digits 4, not 5: leave out one of the two"):
        envs.make("tokens-sort-4", digits=5)
    with pytest.raises(ValueError, match="largest must be between 2 and 33, got 99"):
        envs.make("tokens-countdown", largest=99)
    with pytest.raises(ValueError, match="two makes an environment whose reward is rule already"):
        TokenFactory(lambda: make_tokens("sort-2", "rule"), name="two")(reward="process")
    with pytest.raises(ValueError, match="wrong makes a int, not a token task"):
        TokenFactory(lambda: 3, name="wrong")()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("srot", "unknown task 'srot': did you mean sort?"),
        ("sort-0", "digits must be between 1 and 64, got 0"),
        ("countdown-7", "numbers must be between 2 and 4, got 7"),
        ("qqq", "unknown task 'qqq': choose from add, bandit"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        make_task(name)


@pytest.mark.parametrize("option", ["reward", "split"])
def test_bad_options(option, unchecked):
    with pytest.raises(ValueError, match=f"{option} must be one of"):
        make_tokens("sort", **{option: "nonsense"})


def test_a_task_of_ones_own(monkeypatch):
    monkeypatch.setattr("envs.tokens._TASKS", {})
    register_task("two-digits", lambda: Sort(2))
    env = envs.make("tokens-two-digits")
    assert env.response_length == 3
    assert env.decode(jnp.array([PAD, 4, 2, EOS])) == "2 0 <eos>"
    with pytest.raises(ValueError, match="taken"):
        register_task("two-digits", Sort)
    with pytest.raises(ValueError, match="one size only"):
        make_task("two-digits-3")
