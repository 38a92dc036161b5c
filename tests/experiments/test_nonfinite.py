"""Steps that are not finite: what a run says of them, and when it is refused."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
import envs
from agents import rollout
from envs import probes
from envs.base import Bad
from experiments.console.display import Display
from experiments.evaluation import nonfinite
from experiments.run import folders, loop
from experiments.run.spec import Spec
from experiments.run.summary import summarise
from tests.experiments import stub

PLACE = nonfinite.Place(begin=1000, iteration_steps=100, seed=7, on_host=False)


def found(steps, *, first=0, env=0, **parts):
    """Of two seeds and as many iterations as `steps` has rows."""
    steps = np.asarray(steps, float)
    names = {part.name.lower(): np.zeros_like(steps) for part in Bad}
    buffers = {"train/nonfinite": steps, "loss/x": np.ones_like(steps)}
    more = {**names, "first": np.full_like(steps, first), "env": np.full_like(steps, env)}
    more |= {name: np.asarray(x, float) for name, x in parts.items()}
    buffers |= {f"nonfinite/{name}": x for name, x in more.items()}
    return nonfinite.split(buffers, 100)


def test_what_rows_do_not_hold_is_taken_out():
    counts, rest = found([[0, 0]])
    assert list(rest) == ["train/nonfinite", "loss/x"]
    assert nonfinite.split(rest, 100) == ({}, rest)  # a learner that measures no such thing
    assert nonfinite.warning(counts, PLACE) is None
    for line in (nonfinite.warning, nonfinite.spoiled_start):
        assert line({}, PLACE) is None


def test_a_share_is_a_line_that_names_it_and_where_it_began():
    counts, _ = found([[0, 0], [0, 5]], observation=[[0, 0], [0, 5]], first=42, env=3)
    assert nonfinite.warning(counts, PLACE) == (
        "observation is not finite in 5 of 400 steps (1.2%), first at env step 1142 (environment 3, seed 8); "
        "such a step ends its episode with reward 0"
    )
    counts, _ = found([[1, 1]], state=[[1, 0]], observation=[[1, 0]], reward=[[1, 1]], first=1)
    assert nonfinite.warning(counts, PLACE).startswith("state, observation and reward are not")
    on_host = nonfinite.Place(0, 100, 0, on_host=True)
    assert nonfinite.warning(counts, on_host).startswith("observation and reward are not finite in")


def test_small_shares_are_not_rounded_to_nothing():
    shares = (1e-7, 0.0123, 0.156, 0.9949, 1.0)
    assert [nonfinite.percent(x) for x in shares] == ["1e-05%", "1.2%", "16%", "99%", "100%"]


def test_a_start_is_a_line_of_its_own():
    counts, _ = found([[0, 0], [2, 0]], start=[[0, 0], [2, 0]])
    said = nonfinite.spoiled_start(counts, PLACE)
    assert said == (
        "the first observation of an episode, after a reset, is not finite by env step 1200 (seed 7)"
    )


def test_a_tally_goes_on_over_chunks():
    tally = nonfinite.counted(nonfinite.Tally(), found([[100, 3], [100, 0]])[0])
    tally = nonfinite.counted(tally, found([[100, 100]])[0])
    assert tally == nonfinite.Tally([300, 300], [300, 103], [300, 100])
    assert nonfinite.shares(tally) == [1.0, 103 / 300]
    assert nonfinite.counted(tally, {}) == tally


def test_when_there_is_nothing_to_learn_from():
    counts, _ = found([[100, 0]], reward=[[100, 0]])
    few = nonfinite.Tally([900, 900], [900, 0], [900, 0])
    assert nonfinite.hopeless(few, counts, PLACE, over=False) is None
    said = (
        "reward is not finite in any of the last {} steps (seed 7): there is nothing to learn from"
    )
    assert nonfinite.hopeless(few, counts, PLACE, over=True) == said.format(900)
    late = nonfinite.Tally([9000, 9000], [1100, 0], [1000, 0])
    assert nonfinite.hopeless(late, counts, PLACE, over=False) == said.format(1000)
    assert nonfinite.hopeless(nonfinite.Tally(), {}, PLACE, over=True) is None


# --- in a run -------------------------------------------------------------------------------------------------------


@flax.struct.dataclass
class Spoiled(probes.DelayedReward):
    """Episodes of five steps that earn 1 each; a part of every `when`-th one is NaN."""

    max_episode_steps: int = flax.struct.field(pytree_node=False, default=5)
    part: str = flax.struct.field(pytree_node=False, default="reward")
    when: int = flax.struct.field(pytree_node=False, default=5)

    def transition(self, state, action, key):
        return state[0] + 1, state[1] + 1

    def observation(self, state):
        spoiled = (self.part == "observation") & (state[1] > 0) & (state[1] % self.when == 0)
        spoiled = spoiled | ((self.part == "start") & (state[1] == 0))
        return jnp.where(spoiled, jnp.nan, super().observation(state))

    def reward(self, state, action, next_state):
        spoiled = (self.part == "reward") & (next_state[1] % self.when == 0)
        return jnp.where(spoiled, jnp.nan, 1.0)

    def terminal(self, state):
        return jnp.zeros((), bool)

    def info(self, state, action, next_state):
        return {"odd": jnp.where(self.part == "info", jnp.nan, 1.0), "even": jnp.float32(2.0)}


@flax.struct.dataclass
class Looked:
    stream: Any
    key: Any
    params: Any = flax.struct.field(default_factory=lambda: jnp.zeros(2))


class Looker(stub.Stub):
    """Takes ten steps of each environment an iteration, and learns nothing of them."""

    def __init__(self, config, env):
        super().__init__(config, env)
        self.iteration_steps = 10 * config.num_envs

    def init(self, key):
        return Looked(rollout.start(self.env, key, self.config.num_envs), key)

    def step(self, state, data=None):
        key, use = jax.random.split(state.key)

        def act(obs, key):
            return jnp.zeros(obs.shape[0], jnp.int32), jnp.zeros(obs.shape[0])

        stream, _, metrics = rollout.collect_steps(self.env, act, state.stream, use, 10, 0.9)
        return Looked(stream, key), metrics

    def learned(self, state):
        return state.params

    def collect_only(self, state):
        return self.step(state)[0]

    def act(self, state, obs, key, deterministic):
        return jnp.zeros(obs.shape[0], jnp.int32)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """(part, when, total steps) to a finished run and its folder."""
    monkeypatch.setitem(agents.ALGORITHMS, "looker", Looker)

    def train(part, when, total_steps=400):
        env = Spoiled(part=part, when=when)
        monkeypatch.setitem(envs._FACTORIES, "test-spoiled", lambda: env)
        spec = Spec("test-spoiled", {}, "looker", stub.StubConfig(total_steps=total_steps), 0, 1)
        folder = tmp_path / "run"
        folders.create(folder, spec.to_json())
        finished = loop.train(folder, spec, spec.build(), Display(quiet=True))
        return summarise(folder, spec, spec.build(), finished), folder

    return train


def test_a_spoiled_share_is_said_once_and_kept(run, capsys):
    summary, folder = run("observation", 3)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("warning: observation is not finite in ")
    assert "first at env step 9 (environment 0, seed 0)" in said[0]
    assert said[1].startswith(
        "warning: evaluation: observation is not finite, which ended 16 of 16"
    )
    assert summary["train_nonfinite"] == pytest.approx(1 / 3, abs=0.01)
    assert summary["eval_nonfinite"] == summary["eval_episodes"] == 64
    assert summary["eval_return_mean"] == 2.0
    assert summary["survival_rate"] == 0.0
    for row in folders.read_rows(folder / "metrics.jsonl"):
        assert row["train/return"] == 2.0
        assert row["train/nonfinite"] == row["train/episodes"]
        assert not [name for name in row if name.startswith("nonfinite/")]


def test_a_finite_run_says_nothing(run, capsys):
    summary, _ = run("none", 3)
    assert capsys.readouterr().err == ""
    assert summary["train_nonfinite"] == summary["eval_nonfinite"] == 0


def test_an_info_that_is_not_finite_is_named_and_harms_nothing(run, capsys):
    summary, folder = run("info", 1)
    said = capsys.readouterr().err
    assert said == "warning: info odd is not finite: no number in the rows of such steps\n"
    assert summary["train_nonfinite"] == summary["eval_nonfinite"] == 0
    rows = folders.read_rows(folder / "metrics.jsonl")
    assert {(row["odd"], row["even"], row["train/return"]) for row in rows} == {(None, 2.0, 5.0)}


def test_a_reward_that_is_never_finite_is_an_error(run):
    """Also of a short run, at its end."""
    said = (
        r"reward is not finite in any of the last \d+ steps \(seed 0\): there is nothing to learn"
    )
    with pytest.raises(loop.NonFiniteError, match=said):
        run("reward", 1)


def test_a_reward_that_is_not_finite_at_the_end_is_a_share(run, capsys):
    summary, _ = run("reward", 5)
    assert "reward is not finite in" in capsys.readouterr().err
    assert summary["train_nonfinite"] == pytest.approx(0.2)
    assert summary["eval_return_mean"] == 4.0


def test_a_first_observation_that_is_not_finite_is_an_error(run):
    with pytest.raises(loop.NonFiniteError, match=r"the first observation of an episode.*stopped"):
        run("start", 1)
