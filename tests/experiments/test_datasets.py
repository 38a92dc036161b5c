"""Recording datasets, reading them back, learning from them; and what is refused."""

import builtins
import hashlib
import json
import re
import shutil
import subprocess
import sys

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from agents import replay
from agents.offline.data import OfflineData
from experiments import datasets
from experiments.console.display import Display
from experiments.data import scores, store, transitions
from experiments.data.episodes import Episode, read_episodes, write_dataset
from experiments.recording import parts, record
from experiments.recording.behaviour import episodes_of, random_behaviour
from experiments.recording.rounds import Rounds
from experiments.run import command, folders, recorded
from tests.agents.offline.small import random_data

QUIET = Display(quiet=True)
ENV = "MountainCarContinuous-v0"
LIMIT = 30
SMALL = "--algo bc --hidden-sizes 4 --batch-size 8 --total-steps 500 --no-video"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "minari"


@pytest.fixture(scope="module")
def rounds():
    env = envs.make(ENV, max_episode_steps=LIMIT)
    return Rounds(random_behaviour(ENV, {"max_episode_steps": LIMIT}, env), 3, 4)


@pytest.fixture(scope="module")
def episodes(rounds):
    return rounds.episodes(0)


def written(home, episodes, name="stride/car/random-v0", env_name=ENV, **metadata):
    env = envs.make(ENV)
    ours = {"env": env_name, "env_kwargs": {"max_episode_steps": LIMIT}}
    write_dataset(
        home / name,
        [episodes],
        env.observation_space,
        env.action_space,
        {"dataset_id": name, store.OUR_ENTRY: ours, **metadata},
    )
    return name


def refused(capsys, code, line):
    err = capsys.readouterr().err
    assert code == 2
    assert err.count("\n") == 1
    assert line in err


def test_every_episode_is_whole_with_its_true_last_successor(rounds, episodes):
    env = rounds.behaviour.env
    assert len(episodes) == 4
    for episode in episodes:
        steps = len(episode.rewards)
        assert len(episode.observations) == steps + 1
        assert (episode.terminated | episode.truncated).tolist() == [False] * (steps - 1) + [True]
        assert bool(episode.truncated[-1]) == (steps == LIMIT)
        state = jnp.asarray(episode.observations[-2])
        after = env.transition(state, jnp.asarray(episode.actions[-1]), jax.random.key(0))
        np.testing.assert_allclose(env.observation(after), episode.observations[-1], rtol=1e-5)


def test_a_round_is_the_same_whenever_it_is_played(rounds, episodes):
    again = rounds.episodes(0)
    assert transitions.content_hash(again) == transitions.content_hash(episodes)
    assert transitions.content_hash(rounds.episodes(1)) != transitions.content_hash(episodes)


PLAIN = """
import hashlib, sys, minari, numpy as np
digest = hashlib.sha256()
data = minari.load_dataset(sys.argv[1])
for e in data.iterate_episodes():
    for x in (e.observations, e.actions, e.rewards, e.terminations, e.truncations):
        digest.update(np.ascontiguousarray(x).tobytes())
print(data.total_episodes, data.total_steps, digest.hexdigest())
"""


def test_plain_minari_reads_the_same_bits(home, episodes):
    name = written(home, episodes)
    words = [sys.executable, "-W", "ignore", "-c", PLAIN, name]
    found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    digest = hashlib.sha256()
    for episode in episodes:
        for x in episode:
            digest.update(np.ascontiguousarray(x).tobytes())
    steps = sum(len(x.rewards) for x in episodes)
    assert found == [str(len(episodes)), str(steps), digest.hexdigest()]
    back = list(read_episodes(store.open_dataset(name)))
    for a, b in zip(back, episodes, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_arrays_are_the_episodes_one_after_another(home, episodes):
    env = envs.make(ENV, max_episode_steps=LIMIT)
    found = store.open_dataset(written(home, episodes, ref_min_score=0.0, ref_max_score=50.0))
    data, facts = transitions.read(found, env)
    assert isinstance(data, OfflineData)
    np.testing.assert_array_equal(data.obs, np.concatenate([x.observations[:-1] for x in episodes]))
    np.testing.assert_array_equal(
        data.next_obs, np.concatenate([x.observations[1:] for x in episodes])
    )
    np.testing.assert_allclose(data.action, np.concatenate([x.actions for x in episodes]))
    assert facts.steps == len(data.reward) == found.steps
    assert facts.return_mean == pytest.approx(np.mean([x.rewards.sum() for x in episodes]))
    assert (facts.ref_min, facts.ref_max) == (0.0, 50.0)
    held = sum(x.nbytes for x in jax.tree.leaves(data))
    assert held == pytest.approx(transitions.nbytes(found, env), rel=0.02)


def order(**changes):
    fields = {
        "run": None,
        "env": "CartPole-v1",
        "algo": "random",
        "id": "stride/car/random-v0",
        "steps": 300,
        "source": "policy",
        "seed": 0,
        "seed_index": 0,
        "deterministic": False,
        "expert": None,
        "ref_min": -1.0,
        "ref_max": None,
        "trust": False,
    }
    return record.Order(**{**fields, **changes})


def test_a_recording_that_was_stopped_goes_on_with_the_same_episodes(home, monkeypatch):
    """Stopped after its first round, and killed while it wrote the file."""
    whole = record.record(order(id="stride/car/whole-v0"), QUIET)
    written_parts = []

    def stopped(self, number, content, write=parts.Parts.write):
        if number == 1 and not written_parts:
            written_parts.append(number)
            raise OSError("the disk is full")
        write(self, number, content)

    monkeypatch.setattr(parts.Parts, "write", stopped)
    with pytest.raises(OSError, match="full"):
        record.record(order(), QUIET)
    assert not (home / "stride/car/random-v0").exists()
    assert store.names() == [whole]
    with pytest.raises(ValueError, match="begun with another seed"):
        record.record(order(seed=1), QUIET)
    name = record.record(order(), QUIET)
    a, b = (list(read_episodes(store.open_dataset(x))) for x in (whole, name))
    assert transitions.content_hash(a) == transitions.content_hash(b)
    assert sum(len(x.rewards) for x in a) >= 300 > sum(len(x.rewards) for x in a[:-1])
    assert [path.name for path in (home / "stride/car").iterdir()].count(".random-v0.part") == 0


def test_whole_episodes_of_a_replay_buffer():
    """Two environments; the ring has been overwritten, so the oldest rows are the end of an episode."""
    rows, steps = 8, 11
    example = replay.Transition(
        *(jax.ShapeDtypeStruct((), x) for x in ("float32", "int32", "float32", "bool", "bool")),
        jax.ShapeDtypeStruct((), "float32"),
    )
    buffer = replay.init(example, rows * 2, 2)
    lengths = (4, 3)  # of the episodes of each environment
    for t in range(steps):
        ends = jnp.array([t % n == n - 1 for n in lengths])
        obs = jnp.array([10.0 * (t // n) + t % n for n in lengths])
        buffer = replay.add(
            buffer,
            replay.Transition(
                obs,
                jnp.array([0, 1]),
                obs,
                ends & jnp.array([True, False]),
                ends & jnp.array([False, True]),
                obs + 1,
            ),
        )
    found = list(episodes_of(jax.device_get(buffer), envs.make("CartPole-v1").action_space))
    assert [x.observations.tolist() for x in found] == [
        [10.0, 11.0, 12.0, 13.0, 14.0],
        [20.0, 21.0, 22.0, 23.0],
    ]
    assert [bool(x.truncated[-1]) for x in found] == [False, True]
    assert found[0].actions.tolist() == [0] * 4


def changed(episode, **parts_of):
    return episode._replace(**parts_of)


def nan_in(x, step):
    x = x.copy()
    x[step] = np.nan
    return x


FAULTS = {
    "30 observations of 30 steps": lambda e: changed(e, observations=e.observations[:-1]),
    "step 5 has observations that are not finite": lambda e: changed(
        e, observations=nan_in(e.observations, 5)
    ),
    "step 7 has rewards that are not finite": lambda e: changed(e, rewards=nan_in(e.rewards, 7)),
    "step 0 has actions outside of the space": lambda e: changed(e, actions=e.actions + 5),
    "it ends at step 0 of 30 and goes on": lambda e: changed(e, truncated=np.ones(30, bool)),
    "observations of shape (3,)": lambda e: changed(e, observations=np.zeros((31, 3), np.float32)),
}


@pytest.mark.parametrize("line", FAULTS)
def test_faulty_episodes_are_named(home, episodes, capsys, line):
    good = next(x for x in episodes if len(x.rewards) == LIMIT)
    name = written(home, [good, FAULTS[line](good)])
    code = command.main(["--dataset", name, *SMALL.split()], None)
    refused(capsys, code, f"the dataset {name}, episode 1: {line}")


def test_datasets_that_cannot_be_used_are_refused_in_a_line(home, episodes, capsys):
    name = written(home, episodes)

    def trains(flags, what=name):
        return command.main(["--dataset", what, *SMALL.split(), *flags.split()], None)

    refused(capsys, trains("--env Pendulum-v1"), f"is of {ENV}, not of Pendulum-v1")
    refused(capsys, trains("", "stride/car/randm-v0"), f"did you mean {name}?")
    refused(capsys, trains("", "../else"), "is no name of a dataset")
    refused(capsys, trains("--start x"), "--start is for learners with a replay buffer")
    other = written(home, episodes, "stride/pole/x-v0", "CartPole-v1")
    refused(capsys, trains("", other), "does not fit CartPole-v1: observations have shape (2,)")
    code = command.main(f"--env {ENV} --algo ppo --dataset {name}".split(), None)
    refused(capsys, code, "--dataset is nothing to ppo")
    code = command.main(f"--env {ENV} --algo iql".split(), None)
    refused(capsys, code, "iql learns from recorded data: give --dataset ID")
    file = home / name / "data" / "main_data.hdf5"
    with h5py.File(file, "a") as content:
        del content["episode_1"]
    refused(capsys, trains(""), f"the dataset {name} cannot be read, episode 1")
    file.write_bytes(b"no data")
    refused(capsys, trains(""), f"the dataset {name} cannot be read, episode 0")
    metadata = home / name / "data" / "metadata.json"
    content = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**content, "total_episodes": 0}))
    refused(capsys, trains(""), "has no episodes in it")
    metadata.write_text("{")
    refused(capsys, trains(""), f"the dataset {name} cannot be read")
    assert not (home.parent / "results").exists()


def test_without_the_extra_a_line_says_how_to_get_it(monkeypatch, capsys):
    known = builtins.__import__

    def lacks(name, *rest):
        if name == "h5py":
            raise ImportError(name=name)
        return known(name, *rest)

    monkeypatch.setattr(builtins, "__import__", lacks)
    with pytest.raises(ValueError, match=r"pip install 'stride-rl\[offline\]'"):
        datasets.datasets(["list"])


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("", "what is to be done? choose from record, list"),
        ("shw", "did you mean show?"),
        ("record", "give the folder of a run, or --env NAME"),
        (f"record --env {ENV} --algo sac", "--env records random actions alone"),
        (f"record --env {ENV} --source replay", "give the run's folder"),
        (f"record --env {ENV} --steps 0", "--steps must be at least 1"),
        (f"record --env {ENV} --id nonsense", "is no name of a dataset"),
        ("record nowhere", "is not a run"),
        ("show stride/none-v0", "there is none yet"),
        ("import nowhere", "holds no dataset"),
        ("combine stride/a-v0 --id stride/b-v0", "two datasets or more"),
    ],
)
def test_wrong_commands_are_refused_in_a_line(argv, line):
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        datasets.datasets(argv.split())
    assert "\n" not in str(error.value)


def test_datasets_are_shown_listed_combined_and_imported(home, episodes, capsys, tmp_path):
    name = written(home, episodes[:2], ref_min_score=-5.0, ref_max_score=5.0)
    other = written(home, episodes[2:], "stride/car/other-v0")
    assert datasets.datasets(["show", name, "--picture", "a.png"]) == 0
    assert (tmp_path / "a.png").stat().st_size > 1000
    said = capsys.readouterr().out
    assert "score" in said
    assert "states covered" in said
    assert datasets.datasets(["combine", name, other, "--id", "stride/car/both-v0"]) == 0
    both = store.open_dataset("stride/car/both-v0")
    assert transitions.content_hash(list(read_episodes(both))) == transitions.content_hash(episodes)
    assert (both.env, both.ref_max) == (ENV, 5.0)
    shutil.move(home / name, tmp_path / "elsewhere")
    assert datasets.datasets(["import", "elsewhere"]) == 0
    assert datasets.datasets(["import", "elsewhere", "--id", "mine/car-v1"]) == 0
    assert datasets.datasets(["list"]) == 0
    assert store.names() == ["mine/car-v1", "stride/car/both-v0", other, name]
    with pytest.raises(ValueError, match="not overwritten"):
        datasets.datasets(["import", "elsewhere"])


def test_a_run_learns_from_a_dataset_and_goes_on_with_no_other(home, episodes, capsys, tmp_path):
    name = written(home, episodes, ref_min_score=-5.0, ref_max_score=5.0)
    assert command.main(["--dataset", name, *SMALL.split(), "--out", "run"], None) == 0
    said = capsys.readouterr().out
    steps = sum(len(x.rewards) for x in episodes)
    assert said.startswith(f"dataset: {steps} steps in 4 episodes, ")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["unit"] == "gradient steps"
    assert summary["env_steps"] == 500
    assert summary["score"] == pytest.approx(10 * (summary["eval_return_mean"] + 5))
    assert summary["eval_episodes"] >= 100
    row = folders.read_rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert row["eval/score"] == pytest.approx(summary["score"])
    config = folders.read_config(tmp_path / "run")
    assert config["dataset"]["id"] == name
    assert config["env_kwargs"]["max_episode_steps"] == LIMIT
    assert command.main(["--resume", "run"], None) == 0
    shutil.rmtree(home / name)
    written(home, episodes[1:])
    capsys.readouterr()
    refused(
        capsys, command.main(["--resume", "run"], None), "which has changed since the run began"
    )
    refused(capsys, command.main(["--resume", "run", "--dataset", "a/b-v0"], None), "contradicts")


def test_a_replay_buffer_is_filled_column_by_column():
    data = random_data(envs.make("Pendulum-v1"), steps=61 - 1, length=12)
    transition = replay.Transition(
        *(
            jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
            for x in (data.obs, data.action, data.reward, data.terminated, data.truncated)
        ),
        jax.ShapeDtypeStruct(data.obs.shape[1:], data.obs.dtype),
    )
    buffer = recorded.fill(replay.init(transition, 4 * 40, 4), data)
    assert int(buffer.size) == 15
    np.testing.assert_array_equal(buffer.storage.reward[:15, 1], data.reward[15:30])
    np.testing.assert_array_equal(buffer.storage.next_obs[:15, 2], data.next_obs[30:45])
    ends = buffer.storage.terminated[:15] | buffer.storage.truncated[:15]
    assert bool(ends[14].all())
    assert not bool((buffer.storage.terminated & buffer.storage.truncated).any())


@pytest.mark.slow
def test_from_offline_to_online(home, episodes, capsys, tmp_path):
    name = written(home, episodes)
    small = "--hidden-sizes 4 --batch-size 8 --no-video"
    flags = f"--dataset {name} --algo td3-bc --total-steps 500 --out offline {small}"
    assert command.main(flags.split(), None) == 0
    online = (
        f"--algo td3 --start offline --dataset {name} --total-steps 300 --warmup-steps 20 {small}"
    )
    wrong = command.main(f"{online} --algo sac --out no".split(), None)
    refused(capsys, wrong, "whose networks are not those of sac")
    wrong = command.main(f"{online} --out no".split(), None)
    refused(capsys, wrong, "give --normalize-observations")
    online += " --normalize-observations --buffer-size 1000 --out online"
    assert command.main(online.split(), None) == 0
    assert command.main(["--resume", "online"], None) == 0


def test_scores():
    found = scores.scores(1607.0, "Hopper-v5", 20.0, 3194.0)
    assert found["score"] == pytest.approx(50.0)
    assert found["score_d4rl"] == pytest.approx(100 * 1627.272305 / 3254.572305)
    assert scores.scores(1.0, "walker", None, 3.0) == {"score": None, "score_d4rl": None}


def test_episodes_that_say_of_no_end_are_cut_off(home, episodes):
    endless = [x._replace(truncated=np.zeros(len(x.rewards), bool)) for x in episodes]
    back = read_episodes(store.open_dataset(written(home, endless)))
    assert all((isinstance(x, Episode) and x.truncated[-1]) or x.terminated[-1] for x in back)
