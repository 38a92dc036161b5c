import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
import envs
import experiments
from agents.ppo import PPO, PPOConfig
from experiments.console.display import Display
from experiments.evaluation import metrics
from experiments.evaluation.evaluator import evaluator
from experiments.run import checkpoints, command, folders, loop, summary
from experiments.run.programs import Programs
from experiments.run.spec import Spec, initial_keys
from tests.experiments import stub

ROOT = Path(__file__).parents[2]
LIMIT = envs.make("probe-truncation").max_episode_steps
RETURN = LIMIT - 1  # every step earns 1, save the first
QUIET = Display(quiet=True)
TINY = PPOConfig(
    total_steps=3200,
    num_envs=4,
    num_steps=8,
    num_epochs=2,
    num_minibatches=2,
    hidden_sizes=(8,),
)


@pytest.fixture(autouse=True)
def _stub(monkeypatch):
    monkeypatch.setitem(agents.ALGORITHMS, "stub", stub.Stub)


def rows(folder):
    """Metrics without the clock's."""
    found = folders.read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in r.items() if k != "wall_clock_s" and k[:5] != "time/"} for r in found]


def train(folder, spec, resume=False, **options):
    if not resume:
        folders.create(folder, spec.to_json())
    return loop.train(folder, spec, spec.build(), QUIET, resume, **options)


def test_every_run_of_a_seed_is_the_same_however_it_is_cut(tmp_path, monkeypatch):
    spec = stub.spec(total_steps=4 * 1234, seed=3)
    first = train(tmp_path / "a", spec)
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-4)
    second = train(tmp_path / "b", spec)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    np.testing.assert_array_equal(first.states.params, second.states.params)
    other = train(tmp_path / "c", dataclasses.replace(spec, seed=4))
    assert not np.array_equal(first.states.params, other.states.params)


def test_the_wall_clock_includes_what_was_traced_before_training(tmp_path):
    spec = stub.spec(total_steps=8)
    folders.create(tmp_path / "a", spec.to_json())
    algo = spec.build()
    programs = loop.programs_of(spec, algo)
    programs.compile_s = 1000.0
    progress = loop.train(tmp_path / "a", spec, algo, QUIET, programs=programs).progress
    assert progress.wall_clock_s > progress.compile_s > 1000


def test_rows_are_those_of_the_contract(tmp_path):
    spec = stub.spec(total_steps=4 * 1003)
    train(tmp_path / "a", spec, time_rollout=True)
    found = folders.read_rows(tmp_path / "a" / "metrics.jsonl")
    assert [r["env_steps"] for r in found] == [*range(8, 4 * 1003, 8), 4 * 1003]
    evaluated = [r for r in found if r["eval/return"] is not None]
    assert len(evaluated) == metrics.MARKS
    assert evaluated[-1] is found[-1]
    assert evaluated[-1]["eval/return"] == RETURN
    assert evaluated[-1]["eval/length"] == LIMIT
    for name in ("wall_clock_s", "time/rollout_s", "time/update_s", "train/return", "loss/policy"):
        assert name in found[0]
    walls = [r["wall_clock_s"] for r in found]
    assert walls == sorted(walls)


@pytest.mark.parametrize("stop_after", [1, 5])
def test_stopped_and_resumed_is_never_stopped(tmp_path, monkeypatch, stop_after):
    spec = stub.spec(total_steps=4 * 777)
    whole = train(tmp_path / "whole", spec)
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-4)
    advance, calls = loop.Loop.advance, []

    def stop(training, n):
        calls.append(n)
        if len(calls) == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(training, n)

    monkeypatch.setattr(loop.Loop, "advance", stop)
    with pytest.raises(loop.RunInterruptedError) as stopped:
        train(tmp_path / "cut", spec)
    assert stopped.value.signum == signal.SIGTERM
    assert sum(calls) < 777
    resumed = train(tmp_path / "cut", spec, resume=True)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    np.testing.assert_array_equal(whole.states.params, resumed.states.params)


def test_a_damaged_newest_checkpoint_costs_only_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-4)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    spec = stub.spec(total_steps=4 * 20)
    train(tmp_path / "a", spec)
    before = rows(tmp_path / "a")
    newest = checkpoints.steps(tmp_path / "a" / "checkpoints")[0]
    (tmp_path / "a" / "checkpoints" / str(newest) / "state" / "manifest.ocdbt").unlink()
    train(tmp_path / "a", spec, resume=True)
    assert rows(tmp_path / "a") == before
    assert f"checkpoint {newest} is damaged" in capsys.readouterr().err
    assert checkpoints.steps(tmp_path / "a" / "checkpoints")[0] == newest


def test_a_damaged_row_is_named_and_costs_no_other(tmp_path, capsys):
    spec = stub.spec(total_steps=400)
    train(tmp_path / "a", spec)
    file = tmp_path / "a" / "metrics.jsonl"
    before = rows(tmp_path / "a")
    file.write_text("{bad\n" + file.read_text())
    train(tmp_path / "a", spec, resume=True)
    assert rows(tmp_path / "a") == before
    assert f"{file}: 1 damaged lines dropped" in capsys.readouterr().err


def test_stopped_before_its_first_checkpoint_a_run_begins_anew(tmp_path):
    spec = stub.spec(total_steps=400, seeds=2)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(whole, spec)
    folders.create(cut, spec.to_json())
    train(cut, spec, resume=True)
    for seed in ("seed_0", "seed_1"):
        assert rows(cut / seed) == rows(whole / seed) != []


def test_rows_are_not_given_up_for_want_of_a_checkpoint(tmp_path):
    spec = stub.spec(total_steps=400)
    train(tmp_path / "a", spec)
    before = rows(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    with pytest.raises(checkpoints.DamagedCheckpointError, match="no usable checkpoint"):
        train(tmp_path / "a", spec, resume=True)
    assert rows(tmp_path / "a") == before


def test_a_long_evaluation_is_left_between_its_batches(tmp_path, monkeypatch):
    """That at the end: the iterations since the last checkpoint are done again."""
    spec = stub.spec(total_steps=400)
    whole = train(tmp_path / "whole", spec)
    real, calls = loop.Loop.call, []

    def call(training, program, *arguments):
        done = real(training, program, *arguments)
        if program is training.programs.evaluate and training.progress.iteration == training.total:
            calls.append(program)
            os.kill(os.getpid(), signal.SIGINT)
        return done

    monkeypatch.setattr(loop.Loop, "call", call)
    with pytest.raises(loop.RunInterruptedError):
        train(tmp_path / "cut", spec)
    assert len(calls) == 1
    monkeypatch.setattr(loop.Loop, "call", real)
    resumed = train(tmp_path / "cut", spec, resume=True)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    np.testing.assert_array_equal(whole.states.params, resumed.states.params)


def test_seeds_are_their_single_runs(tmp_path):
    spec = stub.spec(total_steps=400, seed=5, seeds=3)
    together = train(tmp_path / "all", spec)
    assert len(together.episodes) == 3
    for i in range(3):
        alone = train(tmp_path / f"{i}", stub.spec(total_steps=400, seed=5 + i))
        np.testing.assert_allclose(
            together.states.params[i], alone.states.params[0], rtol=1e-4, atol=1e-4
        )
        seed = rows(tmp_path / "all" / f"seed_{i}")
        for a, b in zip(seed, rows(tmp_path / f"{i}"), strict=True):
            assert {k for k in a if a[k] is None} == {k for k in b if b[k] is None}
            numbers = [{k: v for k, v in row.items() if v is not None} for row in (a, b)]
            assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_ppo_seeds_are_their_single_runs_after_an_iteration():
    spec = Spec("probe-observation", {}, "ppo", TINY, 7, 3)
    algo = spec.build()
    together = Programs(algo, 3, evaluator("control").run)
    single = Programs(algo, 1, evaluator("control").run)
    keys = initial_keys(spec)
    states, metrics = together.chunk(together.init(keys), jnp.int32(1))
    for i in range(3):
        state, alone = single.chunk(single.init(keys[i : i + 1]), jnp.int32(1))
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b[0], rtol=1e-4, atol=1e-4),
            states.params,
            state.params,
        )
        for name, x in metrics.items():
            np.testing.assert_allclose(x[0, i], alone[name][0, 0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, seeds):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e-4)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    spec = stub.spec(total_steps=4000, break_at=30, seed=2, seeds=seeds)
    with pytest.raises(loop.NonFiniteError) as stopped:
        train(tmp_path / "a", spec)
    assert "loss/policy is not finite at env step 124 (seed 2)" in str(stopped.value)
    assert "\n" not in str(stopped.value)
    kept = checkpoints.steps(tmp_path / "a" / "checkpoints")[0]
    assert 0 < kept <= 120
    assert f"of env step {kept}," in str(stopped.value)


def test_summary_and_policy_of_a_finished_run(tmp_path):
    spec = stub.spec(total_steps=400, seed=1, seeds=2)
    folder = tmp_path / "a"
    finished = train(folder, spec)
    summary.conclude(folder, spec, spec.build(), finished, True, QUIET)
    written = json.loads((folder / "summary.json").read_text())
    wanted = (
        "env, algo, seeds, env_steps, wall_clock_s, compile_s, steps_per_second, eval_return_mean, "
        "eval_return_std, eval_episodes, survival_rate, distance_m, gait, per_seed"
    )
    assert set(wanted.split(", ")) <= set(written)
    assert written["env_steps"] == 400
    assert written["eval_return_mean"] == RETURN
    assert written["survival_rate"] == 1
    assert [s["seed"] for s in written["per_seed"]] == [1, 2]
    assert (folder / "curve.png").stat().st_size > 1000
    threshold = -float(finished.states.params[1, 0])
    policy = experiments.load(folder, seed_index=1)
    obs = np.array([[threshold - 1], [threshold + 1]], np.float32)
    np.testing.assert_array_equal(policy(obs), [0, 1])
    assert policy(obs[1]).shape == ()
    for wrong in (np.float32(0), np.zeros(2), np.zeros((1, 3))):
        with pytest.raises(ValueError, match=r"an observation has shape \(1,\)"):
            policy(wrong)
    with pytest.raises(ValueError, match="2 seeds"):
        experiments.load(folder, seed_index=2)


@pytest.mark.parametrize(
    "algo", ["q-learning", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ppo", "dqn"))]
)
def test_a_policy_takes_numbered_observations_as_they_are(tmp_path, algo):
    flags = ["--env", "CliffWalking-v1", "--algo", algo, "--total-steps", "64", "--num-envs", "4"]
    flags += {"q-learning": [], "dqn": ["--warmup-steps", "32", "--batch-size", "4"]}.get(
        algo, ["--num-steps", "8", "--num-minibatches", "2", "--num-epochs", "1"]
    )
    assert command.main([*flags, "--no-video", "--out", str(tmp_path / "a")]) == 0
    for deterministic in (True, False):
        policy = experiments.load(tmp_path / "a", deterministic=deterministic)
        for obs in (36, np.int64(0), np.zeros(3, int), np.zeros((2, 3), int)):
            assert policy(obs).shape == np.shape(obs)
        for wrong in (48, -1, 2.0):
            with pytest.raises(ValueError, match="a whole number from 0 to 47"):
                policy(wrong)


# A run of PPO in a process of its own, with checkpoints and chunks as short as they get.
COMMAND = """
import sys
from experiments import cli
from experiments.run import loop
loop.CHUNK_SECONDS = 0.05
loop.CHECKPOINT_SECONDS = 0.0
sys.exit(cli.main(sys.argv[1:]))
"""
FLAGS = ["--env", "probe-delayed", "--total-steps", "12800", "--num-envs", "4", "--num-steps", "8"]
FLAGS += ["--num-epochs", "2", "--num-minibatches", "2", "--hidden-sizes", "8", "--seed", "11"]


def start(*arguments):
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", COMMAND, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish_process(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def wait_for_rows(folder, n, process):
    file = folder / "metrics.jsonl"
    deadline = time.monotonic() + 100
    while not file.exists() or file.read_bytes().count(b"\n") < n:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_and_resumed_is_never_killed_bit_for_bit(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    # The one that is left alone runs in this process; its programs are in the cache when the others look for them.
    assert command.main([*FLAGS, "--out", str(whole)]) == 0
    process = start(*FLAGS, "--out", str(cut))
    for n in (30, 200):
        wait_for_rows(cut, n, process)
        process.kill()
        process.communicate()
        assert len(rows(cut)) < len(rows(whole))
        process = start("--resume", str(cut))
    assert "resumed at env step" in finish_process(process)
    assert rows(cut) == rows(whole)
    assert len(rows(whole)) == 400
    arrays = [jax.tree.leaves(loop.load_state(f, *_open(f), print)[0].params) for f in (whole, cut)]
    for a, b in zip(*arrays, strict=True):
        np.testing.assert_array_equal(a, b)


def _open(folder):
    spec = Spec.from_json(folders.read_config(folder))
    return spec, PPO(spec.config, spec.build().env)


def test_ctrl_c_saves_says_how_resume_with_and_exits_with_130(tmp_path):
    process = start(*FLAGS, "--out", str(tmp_path / "a"))
    wait_for_rows(tmp_path / "a", 3, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert f"--resume {tmp_path / 'a'}" in output
    assert "Traceback" not in output
    assert len(rows(tmp_path / "a")) < 400


def test_the_loop_runs_outside_the_main_thread_too(tmp_path):
    # Where no signal handlers can be set.
    done = []
    thread = threading.Thread(
        target=lambda: done.append(train(tmp_path / "a", stub.spec(total_steps=40)))
    )
    thread.start()
    thread.join()
    assert done
