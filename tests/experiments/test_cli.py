import errno
import json
import shutil

import gymnasium
import numpy as np
import pytest

import agents
from envs.biped.walker import Walker
from experiments import compare, play
from experiments.console import flags
from experiments.console.locks import exclusive_lock
from experiments.evaluation import evaluator
from experiments.grids import grid
from experiments.run import command, folders, summary
from tests.experiments import stub

TINY = [
    "--num-envs",
    "4",
    "--num-steps",
    "8",
    "--num-epochs",
    "1",
    "--num-minibatches",
    "2",
    "--hidden-sizes",
    "8",
]


TABULAR = ("agents.tabular.q_learning", "agents.tabular.dynamic_programming")


@pytest.fixture(autouse=True)
def _stub(monkeypatch, tmp_path):
    monkeypatch.setitem(agents.ALGORITHMS, "stub", stub.Stub)
    monkeypatch.chdir(tmp_path)  # so that whatever is written by default is seen


def everything(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


BAD = [
    ("--env probe-constant --algo pppo", "did you mean ppo?"),
    ("--env cartpole", "unknown environment 'cartpole'"),
    ("--env probe-constnt", "did you mean probe-constant?"),
    ("--env walker --backend natve", "'native'"),
    ("--env probe-constant --backend native", "unknown flag --backend"),
    (
        "--env probe-constant --quick",
        "--quick has no settings for ppo on probe-constant, only for ppo",
    ),
    ("--env probe-constant --num-envs 0", "num_envs must be at least 1"),
    ("--env probe-constant --num-minibatches 3", "does not divide"),
    ("--env probe-constant --gamma 1.5", "gamma must be between 0 and 1"),
    ("--env probe-constant --total-steps -5", "total_steps must be at least 1"),
    ("--env probe-constant --total-steps many", "--total-steps: 'many' is not a whole number"),
    ("--env probe-constant --total-steps 1e6", "in digits: write 1000000"),
    ("--env probe-constant --gamma x", "--gamma: 'x' is not a number"),
    ("--env probe-constant --total-steps 9999999999", "below 2147483648"),
    ("--env probe-constant --seeds 0", "--seeds must be at least 1"),
    ("--env probe-constant --seed -1", "--seed must be"),
    ("--env probe-constant --lerning-rate 1e-3", "did you mean --learning-rate?"),
    ("--env probe-constant --no-vidio", "did you mean --no-video?"),
    ("--env probe-constant --seed", "--seed"),
    ("--env probe-constant extra", "unexpected argument 'extra'"),
    ("--env walker --observation pixels", "document"),
    ("--env walker --torque-weight-ramp 0.1 5 2", "torque_weight_ramp"),
    ("--env walker --torque-weight-ramp 0.1", "wanted None or FLOAT FLOAT FLOAT, got '0.1'"),
    ("--env probe-constant --out /dev/null/run", "Not a directory"),
    ("--env probe-constant --out {run}", "not overwritten"),
    ("", "--env NAME"),
    ("--algo", "--algo"),
    ("--resume {nothing}", "is not a run"),
    ("--resume {run} --env walker", "is a run of env probe-truncation"),
    ("--resume {run} --algo ppo", "is a run of algo stub"),
    ("--resume {run} --rate 0.1", "--rate 0.1 contradicts"),
    ("--resume {run} --seed 9", "--seed 9 contradicts"),
    ("--resume {run} --total-steps 4000", "--total-steps 4000 contradicts"),
    ("--resume {run} --out elsewhere", "leave out --out"),
]


@pytest.mark.parametrize(("flags", "message"), BAD, ids=[flags or "none" for flags, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, flags, message):
    folders.create(tmp_path / "run", stub.spec().to_json())
    before = everything(tmp_path)
    flags = flags.format(run=tmp_path / "run", nothing=tmp_path / "nothing").split()
    assert command.main(flags) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert captured.out == ""
    assert everything(tmp_path) == before


def test_a_run_without_a_usable_checkpoint_is_one_line(tmp_path, capsys):
    flags = ["--env", "probe-truncation", "--algo", "stub", "--total-steps", "80"]
    assert command.main([*flags, "--out", str(tmp_path / "run")]) == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    capsys.readouterr()
    assert command.main(["--resume", str(tmp_path / "run")]) == 2
    assert "no usable checkpoint" in capsys.readouterr().err


def test_two_processes_do_not_share_a_run(tmp_path, capsys):
    folders.create(tmp_path / "run", stub.spec().to_json())
    with exclusive_lock(tmp_path / "run", "another process"):
        assert command.main(["--resume", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error == f"error: another process is at work in {tmp_path / 'run'}\n"
    assert command.main(["--resume", str(tmp_path / "run")]) == 0


def test_a_full_disk_is_one_line_and_how_resume_with(tmp_path, capsys, monkeypatch):
    flags = ["--env", "probe-truncation", "--algo", "stub", "--out", str(tmp_path / "run")]

    def full(path, rows):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(folders, "append_rows", full)
        assert command.main(flags) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "metrics.jsonl: No space left on device" in captured.err
    assert f"resume with: python -m experiments.train --resume {tmp_path / 'run'}" in captured.out
    assert command.main(["--resume", str(tmp_path / "run")]) == 0


class Breaking(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 40
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.left -= 1
        if not self.left:
            raise KeyError("a wheel")
        return np.zeros(2, np.float32), 1.0, False, False, {}


def test_an_environment_that_breaks_on_the_host_is_one_line(tmp_path, capfd, monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Breaking-v0", Breaking, max_episode_steps=100)
    monkeypatch.setitem(gymnasium.registry, "Breaking-v0", spec)
    flags = ["--env", "gym:Breaking-v0", "--total-steps", "320", *TINY, "--out", "run"]
    assert command.main(flags) == 1
    assert capfd.readouterr().err == "error: Breaking-v0 failed in step: KeyError: 'a wheel'\n"


def test_interrupted_at_the_end_a_run_can_be_ended_again(tmp_path, capsys, monkeypatch):
    flags = ["--env", "probe-truncation", "--algo", "stub", "--out", str(tmp_path / "run")]

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(summary, "draw_curve", interrupted)
        assert command.main(flags) == 130
    assert "stopped; resume with" in capsys.readouterr().out
    assert not (tmp_path / "run" / "summary.json").exists()
    assert command.main(["--resume", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "summary.json").exists()


def test_errors_are_read_where_a_terminal_has_no_boxes():
    plain = " Value error \n --- \n  Error parsing --smooth: it is wrong \n  ---\n  Argument helptext:\n"
    assert flags._unboxed(plain) == "--smooth: it is wrong"


@pytest.mark.parametrize("broken", ["", "{}", '{"env": 1}', "\x00"])
def test_a_damaged_config_is_one_line(tmp_path, capsys, broken):
    folders.create(tmp_path / "run", stub.spec().to_json())
    (tmp_path / "run" / "config.json").write_text(broken)
    assert command.main(["--resume", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("env", ["walker", None])
def test_help_lists_every_hyperparameter_with_its_default(capsys, monkeypatch, env):
    monkeypatch.delenv("COLUMNS", raising=False)
    flags = ["--help"] if env else ["--env", "probe-constant", "--help"]
    assert command.main(flags, env) == 0
    text = capsys.readouterr().out
    config = agents.ALGORITHMS["ppo"].Config
    for name in config.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
    for flag in ("seed", "seeds", "out", "resume", "no-video", "algo"):
        assert f"--{flag}" in text
    assert ("--backend" in text) == (env == "walker")  # the probe has no physics
    assert "discount" in text
    assert ("--torque-weight-ramp" in text) == (env == "walker")


def test_the_walkers_options_are_kept(tmp_path):
    flags = [
        "--observation",
        "mathworks",
        "--torque-weight",
        "0.22",
        "--torque-weight-ramp",
        "0.02",
        "1e6",
        "2e6",
    ]
    folder, spec, algo, run, _ = command.prepare([*flags, "--seed", "4"], "walker")
    assert spec.env_kwargs["observation"] == "mathworks"
    assert spec.env_kwargs["torque_weight_ramp"] == (0.02, 1e6, 2e6)
    assert algo.env.torque_weight == 0.22
    assert folder.parts[:2] == ("results", "runs")
    assert folder.name.startswith("walker-ppo-s4-")
    assert run.video
    folders.create(tmp_path / "run", spec.to_json())
    again = command.prepare(["--resume", str(tmp_path / "run"), *flags, "--no-video"], "walker")
    assert again[1] == spec
    assert not again[3].video


def test_one_command_from_start_to_curve(tmp_path, capsys):
    flags = ["--env", "probe-constant", "--total-steps", "100", *TINY, "--out", "run"]
    assert command.main(flags) == 0
    captured = capsys.readouterr()
    assert "100 steps rounded up to 128" in captured.out
    assert captured.err == ""
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["eval_return_mean"] == 1
    assert "curve.png" in captured.out
    assert play.play(["run"]) == 0
    assert "nothing to show" in capsys.readouterr().out
    assert compare.compare(["run", "--out", "both"]) == 0
    assert (tmp_path / "both" / "curves-probe-constant.png").stat().st_size > 1000
    # A finished run can be asked for its results again.
    assert command.main(["--resume", "run", "--total-steps", "100"]) == 0


def test_the_viewer_needs_a_screen(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ValueError, match="needs a screen"):
        play.play(["run", "--viewer"])


@pytest.mark.slow
def test_the_walkers_command_writes_curve_video_and_gait(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluator, "evaluation_episodes", lambda steps, limit: 4)
    monkeypatch.setattr(Walker, "recorded_episodes", 24)
    flags = ["--total-steps", "32", "--max-episode-steps", "20", *TINY]
    flags += ["--seeds", "2", "--out", "run"]
    assert command.main(flags, "walker") == 0
    out = capsys.readouterr().out
    for word in ("stance slip", "survival", "run/curve.png", "run/video.gif"):
        assert word in out
    told = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (told["eval_episodes"], told["eval_batches"]) == (24, 6)
    assert told["distance_m"] == pytest.approx(told["gait"]["distance"])
    assert {"walks", "survival", "alternation"} <= set(told["per_seed"][1]["gait"])
    rows = folders.read_rows(tmp_path / "run" / "seed_1" / "metrics.jsonl")
    assert rows[-1]["env_steps"] == 32
    assert rows[-1]["eval/return"] == pytest.approx(told["per_seed"][1]["eval_return_mean"])
    assert "reward/forward" in rows[0]
    assert play.play(["run", "--seed-index", "1", "--episodes", "3"]) == 0
    assert (tmp_path / "run" / "play.gif").exists()


@pytest.mark.parametrize("algo", agents.ALGORITHMS)
def test_every_algorithm_has_its_flags(algo):
    env = "FrozenLake-v1" if agents.ALGORITHMS[algo].__module__ in TABULAR else "Pendulum-v1"
    _, spec, learner, _, _ = command.prepare(["--env", env, "--algo", algo, "--seed", "3"], None)
    assert (spec.algo, spec.seed) == (algo, 3)
    assert isinstance(spec.config, learner.Config)


@pytest.mark.parametrize("flag", ["--algo actor_critic", "--algo=actor-critic"])
def test_another_name_of_an_algorithm_is_taken_and_its_own_kept(flag, tmp_path):
    argv = ["--env", "CartPole-v1", *flag.split()]
    folder, spec, learner, _, _ = command.prepare(argv, None)
    assert spec.algo == "a2c"
    assert isinstance(learner, agents.ALGORITHMS["a2c"])
    assert folder.name.startswith("CartPole-v1-a2c-s0-")
    folders.create(tmp_path / "run", spec.to_json())
    again = command.prepare(["--resume", str(tmp_path / "run"), *flag.split()], None)
    assert again[1] == spec
    (cell,) = grid.product(["CartPole-v1"], [flag[7:]])
    assert cell.algo == "a2c"


@pytest.mark.parametrize("algo", agents.TOKEN_ALGORITHMS)
def test_every_learner_of_tokens_has_its_flags(algo):
    argv = ["--algo", algo, "--task", "sort-4", "--temperature", "0.5"]
    _, spec, _, _, _ = command.prepare(argv, None, "tokens")
    assert (spec.algo, spec.env, spec.config.temperature) == (algo, "tokens-sort-4", 0.5)
