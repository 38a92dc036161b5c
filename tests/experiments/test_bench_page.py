import json

import pytest

from experiments.benchmarks import page
from experiments.benchmarks.page import FOLDER, text

PROVENANCE = {
    "commit": "0123456789abcdef",
    "machine": {"cpu": "abacus", "cores": 2},
    "versions": {"jax": "1", "mujoco": "2"},
}


def test_the_published_page_is_made_of_the_published_figures():
    assert (FOLDER / "README.md").read_text() == text(FOLDER)


def test_each_task_and_rival_has_its_place(tmp_path):
    mujoco = {"Hopper-v5/here": 2000.0, "Hopper-v5/of_raw": 1.25, "Hopper-v5/of_bound": 0.8}
    threads = {"Reacher-v5/here": 3000.0, "Reacher-v5/of_envpool": 1.5}
    classic = {"CartPole-v1/here": 1e6, "CartPole-v1/of_here": 1.0, "CartPole-v1/of_sync": 99.5}
    learners = {"learn/CartPole-v1/dqn/here": 30.0, "learn/CartPole-v1/dqn/of_here": 1.0}
    learners |= {"learn/CartPole-v1/dqn/sbx": 10.0, "learn/CartPole-v1/dqn/of_sbx": 3.0}
    rates = {"cached": 5000.0, "uncached": 800.0, "grpo": 90.0, "ppo": 60.0}
    tokens = {f"tokens/{name}": rate for name, rate in rates.items()}
    tokens["tokens/cached/of_uncached"] = 6.3
    files = {"mujoco": mujoco, "mujoco-threads": threads, "classic": classic}
    before = {"before": "fedcba9876543210"}
    for name in ("grpo", "ppo"):
        before |= {f"tokens/{name}": 90.0, f"tokens/{name}/before": 60.0}
        before[f"tokens/{name}/of_before"] = 1.5
    files |= {"learners": learners, "tokens": tokens, "tokens-before": before}
    trl = {"parameters": 5e6, "products": 7e10, "packages": {"trl": "1.16.0", "torch": "2.13.0"}}
    for name in ("write", "grpo"):
        trl |= {
            f"{name}/here": 3000.0,
            f"{name}/trl": 1200.0,
            f"{name}/of_trl": 2.5,
            f"{name}/bound": 4000.0,
        }
    files["trl"] = trl
    costs = {"collect_s": 0.8, "update_s": 0.2, "batch_bytes": 2e6, "parameter_bytes": 1e5}
    run = {"steps_learned_per_s": 900.0, "actors": 2, "sync": True, "learner_accounted": 0.99}
    model = costs | {"latency_s": 0.0, "batch_steps": 1000.0}
    actors = {"cores": 2, "single": {"steps_per_s": 1000.0}, "2-sync": run, "model": model}
    files["actors"] = actors
    for name, figures in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(PROVENANCE | figures))
    lines = text(tmp_path).splitlines()
    assert "| Hopper-v5 | 2,000 | 1.25 | 0.80 | - | - | - |" in lines
    assert "| Reacher-v5 | 3,000 | - | - | - | 1.50 | - |" in lines
    assert "| CartPole-v1 | 1,000,000 | - | - | 99.50 | - | - |" in lines
    assert "| CartPole-v1 | dqn | 30 | sbx | 10 | 3.00 |" in lines
    assert "| speed-up over one process | 0.90 |" in lines
    # 0.8 s of collecting by two, then 0.2 s of learning.
    assert "| 2, in step | 900 | 1,667 | 1.85 | all in turn |" in lines
    assert "| generation with the cache, 6.3 times as fast as without | 5,000 |" in lines
    assert "| training, PPO | 60 |" in lines
    assert "| training | tokens/s | at commit fedcba987654 | now faster by |" in lines
    assert "| PPO | 90 | 60 | 1.50 |" in lines
    assert "| GRPO | 3,000 | 1,200 | 2.50 | 4,000 |" in lines
    assert any("0123456789ab, abacus, 2 cores, jax 1, mujoco 2" in line for line in lines)


def test_arguments_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench_page", "results"])
    with pytest.raises(SystemExit) as stop:
        page.main()
    assert stop.value.code == 2
    assert "takes no arguments" in capsys.readouterr().err
