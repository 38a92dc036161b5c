"""What runs on a GPU, at full size there (`pytest -m gpu`) and small on a CPU always."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from agents.ppo import PPO
from experiments.benchmarks.gpu import SMALL, bench_gpu, gpu_config, training

ON_CPU = "ignore:the mjx backend on a CPU:UserWarning"


@pytest.fixture
def gpu():
    if jax.default_backend() == "cpu":
        pytest.skip("no GPU")


@pytest.mark.slow
@pytest.mark.filterwarnings(ON_CPU)
def test_several_seeds_train_on_mjx():
    figures = training(4, 2, 4)
    assert figures["steps_per_second"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings(ON_CPU)
def test_every_gpu_figure_is_measured():
    figures = bench_gpu(SMALL)
    expected = {"gpu/walk/train_s", "gpu/env/4/steps_per_second", "gpu/seeds/2x4/steps_per_second"}
    assert expected <= set(figures)
    assert all(np.isfinite(x) for x in figures.values())


def test_figures_the_clock_forbids_are_skipped(capsys):
    assert bench_gpu(SMALL, budget_s=0.0) == {}
    assert "skipped" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_every_gpu_figure_at_full_size():
    figures = bench_gpu()
    assert figures["gpu/walk/walks"] == 1.0


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_the_gpu_computes_what_the_cpu_does():
    """One control step of 256 reachable states, mjx on the GPU against native on the host."""
    native, mjx = envs.make("walker", backend="native"), envs.make("walker", backend="mjx")
    keys = jax.random.split(jax.random.key(0), 256)
    states = jax.jit(jax.vmap(native.initial))(keys)
    actions = jax.random.uniform(jax.random.key(1), (256, 6), minval=-1.0, maxval=1.0)
    results = [
        jax.jit(jax.vmap(env.transition, (0, 0, None)))(states, actions, keys[0])
        for env in (native, mjx)
    ]
    np.testing.assert_allclose(results[0].physics.qpos, results[1].physics.qpos, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_vmapped_seeds_equal_single_runs_on_the_gpu():
    config = dataclasses.replace(gpu_config(256), total_steps=100_000)
    algo = PPO(config, envs.make("walker", backend="mjx"))
    keys = jax.vmap(jax.random.key)(jnp.arange(4))
    together = jax.jit(jax.vmap(lambda k: algo.step(algo.init(k))))(keys)[0].params
    alone = jax.jit(lambda k: algo.step(algo.init(k)))(keys[2])[0].params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[2], b, atol=1e-3), together, alone)
