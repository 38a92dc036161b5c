"""Tasks whose environment replies: games, their replay, and the same game stepped as an environment."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.tokens import make_tokens
from envs.tokens.games import Calculator, GuessNumber
from envs.tokens.task import EOS, FIRST, PAD
from envs.tokens.turns import Reply, replay

GAME = GuessNumber(largest=6, limit=4)
HIGHER, LOWER, RIGHT, _ = range(FIRST + 6, FIRST + 10)


@pytest.fixture(scope="module")
def play():
    """(task, prompt, response) to its replay and verdict; the response without padding."""
    compiled = {}

    def run(task, prompt, response):
        if task not in compiled:
            both = jax.jit(lambda *x: (replay(task, *x), task.verify(*x)))
            compiled[task] = both
        row = np.array([*response, *[PAD] * (task.response_length - len(response))], np.int32)
        return jax.tree.map(np.asarray, compiled[task](prompt, row, len(response)))

    return run


def game(number):
    """A prompt whose secret is `number`."""
    for i in range(200):
        prompt = GAME.sample(jax.random.key(i))
        if GAME.begin(prompt).secret == number - 1:
            return prompt
    raise AssertionError


class TestGuessNumber:
    def test_words_follow_from_the_secret(self, play):
        guess = [FIRST + n - 1 for n in range(1, 7)]
        right = [guess[1], HIGHER, guess[4], LOWER, guess[3], RIGHT, EOS]
        found, verdict = play(GAME, game(4), right)
        assert found.own.tolist() == [True, False, True, False, True, False, False, False, False]
        assert found.consistent
        assert verdict.correct
        # Two guesses before it, of four.
        np.testing.assert_allclose(verdict.credit, [0, 0, 0, 0, 0.5, 0, 0, 0, 0])

    @pytest.mark.parametrize(
        ("response", "well_formed"),
        [
            ([FIRST, EOS], False),  # a reply is due
            ([FIRST, LOWER, FIRST + 3, RIGHT, EOS], False),  # it would say higher
            ([HIGHER, EOS], True),  # no number: over
            ([EOS], True),
            ([RIGHT, EOS], True),  # its own words are worth nothing
            ([FIRST, HIGHER, FIRST, HIGHER, FIRST, HIGHER, FIRST, HIGHER, EOS], True),
        ],
    )
    def test_wrong(self, play, response, well_formed):
        _, verdict = play(GAME, game(4), response)
        assert not verdict.correct
        assert verdict.well_formed == well_formed
        assert not verdict.credit.any()

    def test_a_reply_that_is_cut_ends_no_game(self, play):
        _, verdict = play(GAME, game(4), [FIRST, HIGHER, FIRST + 3, RIGHT])
        assert not verdict.correct
        assert not verdict.well_formed

    def test_bisection_is_the_optimum_that_is_named(self):
        for largest, limit in ((6, 4), (16, 8)):
            task = GuessNumber(largest, limit)
            prompts = jax.vmap(task.sample)(jax.random.split(jax.random.key(0), 512))
            rows = jax.jit(jax.vmap(task.solution))(prompts)
            length = jnp.argmax(rows == EOS, axis=1) + 1
            found, verdict = jax.jit(jax.vmap(lambda *x, t=task: (replay(t, *x), t.verify(*x))))(
                prompts, rows, length
            )
            assert verdict.correct.all()
            guesses = np.sum(found.own, axis=1)
            secrets = np.asarray(found.state.secret)
            assert {*secrets} == {*range(largest)}
            mean = np.mean([guesses[secrets == s].mean() for s in range(largest)])
            assert mean == pytest.approx(task.optimum)
        assert GuessNumber(15).optimum == pytest.approx(49 / 15)

    def test_secrets_are_evenly_spread(self):
        prompts = jax.vmap(GAME.sample)(jax.random.split(jax.random.key(1), 6000))
        counts = np.bincount(np.asarray(jax.vmap(GAME.begin)(prompts).secret), minlength=6)
        assert counts.min() > 700

    def test_bad_sizes(self):
        with pytest.raises(ValueError, match="limit must be at least 5"):
            GuessNumber(16, 4)
        with pytest.raises(ValueError, match="largest must be at least 2"):
            GuessNumber(1)


class TestCalculator:
    TASK = Calculator(2)

    def ids(self, text):
        return [self.TASK.vocabulary.index(c) if c != "$" else EOS for c in text]

    @pytest.mark.parametrize(
        ("response", "own", "correct"),
        [
            ("12*34=408;408$", "xxxxxx    xxxx", True),
            ("408$", "xxxx", True),
            ("407$", "xxxx", False),
            ("12*34=408;$", "xxxxxx    x", False),
            ("12*3=36;408$", "xxxxx   xxxx", True),
            ("12+34=46;408$", "xxxxxx   xxxx", True),
            ("00*7=0;408$", "xxxxx  xxxx", True),
            ("=!*=!408$", "x xx xxxx", True),
            ("123*4=!408$", "xxxxxx xxxx", True),
            ("1*2*3=!408$", "xxxxxx xxxx", True),
            ("99999999408$", "xxxxxxxxxxxx", False),
        ],
    )
    def test_calls(self, play, response, own, correct):
        prompt = np.array(self.ids("12*34?"), np.int32)
        found, verdict = play(self.TASK, prompt, self.ids(response))
        assert found.consistent
        assert "".join("x" if x else " " for x in found.own[: len(response)]) == own
        assert verdict.correct == correct
        assert verdict.credit.sum() == correct

    def test_expert(self):
        prompts = jax.vmap(self.TASK.sample)(jax.random.split(jax.random.key(0), 64))
        rows = jax.jit(jax.vmap(self.TASK.solution))(prompts)
        length = jnp.argmax(rows == EOS, axis=1) + 1
        assert jax.jit(jax.vmap(self.TASK.verify))(prompts, rows, length).correct.all()


@pytest.mark.parametrize("reward", ["exact", "process"])
def test_stepped_as_an_environment_the_replies_stand_in_the_observation(reward):
    env = make_tokens(GAME, reward)
    prompt = game(4)
    sequence = jnp.concatenate([prompt, jnp.zeros(GAME.response_length, jnp.int32)])
    state = env.initial(jax.random.key(0))._replace(sequence=sequence)
    go = jax.jit(
        lambda s, a: (
            after := env.transition(s, a, jax.random.key(0)),
            env.reward(s, a, after),
            env.terminal(after),
            env.info(s, a, after)["correct"],
        )
    )
    seen = []
    for guess in (2, 5, 4):
        state, *found = go(state, jnp.asarray(FIRST + guess - 1))
        seen.append([float(x) for x in found])
    earned = 1.0 if reward == "exact" else 0.5
    assert seen == [[0, 0, 0], [0, 0, 0], [earned, 1, 1]]
    response = np.asarray(state.sequence[len(prompt) :])
    assert response[:7].tolist() == [FIRST + 1, HIGHER, FIRST + 4, LOWER, FIRST + 3, RIGHT, EOS]
    assert int(state.length) == 7


@dataclasses.dataclass(frozen=True)
class _Long(GuessNumber):
    def react(self, state, token):
        return state, self.reply(1, 2, 3)


@dataclasses.dataclass(frozen=True)
class _Misshapen(GuessNumber):
    def react(self, state, token):
        return state, Reply(jnp.zeros(3, jnp.int32), jnp.zeros(()))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (_Long, "_Long replies with 3 tokens, and reply_length is 2"),
        (_Misshapen, r"_Misshapen replies with tokens of shape \(3,\), and reply_length is 2"),
    ],
)
def test_a_reply_longer_than_the_queue_is_one_line(kind, said):
    task = kind()
    with pytest.raises(ValueError, match=said):
        task.verify(GAME.sample(jax.random.key(0)), jnp.zeros(17, jnp.int32), jnp.int32(1))
