import json

import pytest

import agents
from experiments.pages import results
from experiments.run import folders, records
from tests.experiments import stub

ROWS = [
    {"env_steps": 10, "train/return": 1.0, "train/episodes": 60.0, "eval/return": None},
    {"env_steps": 20, "train/return": None, "train/episodes": 0.0, "eval/return": 3.0},
    {"env_steps": 30, "train/return": 2.0, "train/episodes": 50.0, "eval/return": None},
    {"env_steps": 40, "train/return": 5.0, "train/episodes": 30.0, "eval/return": 2.5},
]


@pytest.fixture(autouse=True)
def _stub(monkeypatch):
    monkeypatch.setitem(agents.ALGORITHMS, "stub", stub.Stub)


def make_run(folder, env="probe-constant", seed=0, seeds=2, rows=ROWS, **config):
    """The folder of a run that never was."""
    spec = {
        "env": env,
        "env_kwargs": {"max_episode_steps": 10},
        "algo": "stub",
        "config": {"total_steps": 40, "num_envs": 4, "break_at": -1, "rate": 0.5, **config},
        "seed": seed,
        "seeds": seeds,
    }
    folders.create(folder, spec)
    report = {"eval_return_std": 0.5, "eval_length_mean": 9.0, "eval_episodes": 64}
    report |= {"survival_rate": 1.0, "distance_m": None, "gait": None}
    per_seed = []
    for i in range(seeds):
        lifted = [{k: v + i if v and k[-6:] == "return" else v for k, v in r.items()} for r in rows]
        folders.append_rows(folders.metrics_file(folder, seeds, i), lifted)
        per_seed.append({"seed": seed + i, "eval_return_mean": 2.5 + i, **report})
    summary = {"env": env, "algo": "stub", "seed": seed, "seeds": seeds, "env_steps": 40}
    summary |= {"wall_clock_s": 12.0, "compile_s": 2.0, "steps_per_second": 1234.5678}
    summary |= {**report, "eval_return_mean": 2.5, "per_seed": per_seed}
    folders.write_json(folder / "summary.json", summary)
    return folder


def test_a_record_for_each_seed(tmp_path):
    first, second = records.record(make_run(tmp_path / "run", seed=7, rate=0.25, num_envs=8))
    assert (first["seed"], second["seed"]) == (7, 8)
    assert first["settings"] == {"total_steps": 40, "num_envs": 8, "rate": 0.25}
    assert first["command"] == (
        "python -m experiments.train --env probe-constant --algo stub --seed 7 --seeds 2 "
        "--total-steps 40 --num-envs 8 --rate 0.25"
    )
    assert first["run"] == {"seed": 7, "seeds": 2}
    assert first["final"] == {"mean": 2.5, "std": 0.5, "episodes": 64}
    assert first["evaluations"] == [[20, 3.0, 16], [40, 2.5, 64]]
    assert second["evaluations"] == [[20, 4.0, 16], [40, 3.5, 64]]
    assert first["best"] == [20, 3.0, 16]
    assert first["train_curve"] == [[10, 1.0], [30, 2.0], [40, 5.0]]
    assert first["env_steps"] == 40
    assert first["wall_clock_s"] == 12.0
    assert first["versions"]["jax"]
    assert first["machine"]["cores"] >= 1


def test_options_of_the_environment_are_part_of_the_command(tmp_path):
    folder = make_run(tmp_path / "run")
    config = folders.read_config(folder)
    config["env_kwargs"] = {"max_episode_steps": 25}
    assert "--max-episode-steps 25 " in records.command(config)


def test_the_last_hundred_episodes_by_hand():
    # 30 episodes at 5, all 50 at 2, and of the earliest row's 60 only 20 at 1
    assert records.last_episodes(ROWS) == pytest.approx((30 * 5 + 50 * 2 + 20 * 1) / 100)
    assert records.last_episodes(ROWS, 30) == 5
    assert records.last_episodes(ROWS[:1]) == 1  # there were only 60
    assert records.last_episodes(ROWS[1:2]) is None
    assert records.last_episodes([]) is None
    assert records.last_episodes([{"env_steps": 5}]) is None


def test_a_long_curve_is_thinned_to_means_weighted_by_episodes():
    rows = [
        {"env_steps": 10 * i, "train/return": float(i), "train/episodes": 1.0 + 2 * (i % 2)}
        for i in range(500)
    ]
    found = records.thinned(rows)
    assert len(found) == 100
    assert [steps for steps, _ in found] == [*range(40, 5000, 50)]
    assert found[0][1] == pytest.approx((0 + 3 * 1 + 2 + 3 * 3 + 4) / 9)
    assert records.thinned([]) == []


def test_curves_of_learned_rewards_are_kept_and_thinned(tmp_path):
    rows = [{**row, "preferences/pairs": float(i)} for i, row in enumerate(ROWS)]
    (first, _) = records.record(make_run(tmp_path / "run", rows=rows))
    assert first["metrics"] == {"preferences/pairs": [[10, 0.0], [20, 1.0], [30, 2.0], [40, 3.0]]}
    assert records.averaged(rows, "preferences/pairs", 2) == [(20, 0.5), (40, 2.5)]
    assert "metrics" not in records.record(make_run(tmp_path / "other"))[0]


def test_what_was_written_is_read_and_stays_small(tmp_path):
    rows = [
        {"env_steps": 1000 * i, "train/return": i / 3, "train/episodes": 5.0, "eval/return": None}
        | ({"eval/return": i / 7} if i % 25 == 24 else {})
        for i in range(500)
    ]
    found = records.record(make_run(tmp_path / "run", rows=rows))
    records.write(tmp_path / "records.json", found, "A title")
    assert records.read(tmp_path / "records.json") == ("A title", found)
    assert (tmp_path / "records.json").stat().st_size < 2 * 5_000
    json.loads((tmp_path / "records.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("text", ["{", "[]", '{"records": []}', '{"title": null, "records": 3}'])
def test_a_file_without_records_is_refused(tmp_path, text):
    (tmp_path / "records.json").write_text(text)
    with pytest.raises(ValueError, match=r"records\.json"):
        records.read(tmp_path / "records.json")


def test_an_unfinished_run_has_no_record(tmp_path):
    folder = make_run(tmp_path / "suite" / "run")
    assert len(records.collect(tmp_path / "suite")) == 2
    (folder / "summary.json").unlink()
    assert records.collect(tmp_path / "suite") == []
    with pytest.raises(ValueError, match="not finished"):
        records.record(folder)


def test_a_run_of_tokens_is_told_by_its_share_of_correct_responses(tmp_path):
    found = []
    for seed, reached in ((0, 0.5), (1, 0.75), (2, 1.0)):
        folder = make_run(tmp_path / str(seed), seeds=1, seed=seed)
        config = folders.read_config(folder)
        config |= {"env": "tokens-sort", "env_kwargs": {}, "domain": "tokens", "algo": "grpo"}
        config["config"] = {"kl_coefficient": 0.5}
        folders.write_json(folder / "config.json", config)
        summary = json.loads((folder / "summary.json").read_text())
        for report in summary["per_seed"]:
            report |= {"pass_at_1_start": 0.1, "pass_at_1": reached, "kl_to_reference": 2.0}
            report |= {"pass_at_8_start": 0.4, "pass_at_8": 1.0}
            del report["gait"]
        folders.write_json(folder / "summary.json", summary)
        found += records.record(folder)
    assert found[0]["command"] == (
        "python -m experiments.tokens --task sort --algo grpo --seed 0 --seeds 1 --kl-coefficient 0.5"
    )
    page = results.of_suite("Tokens", found, {})
    assert (
        "| tokens-sort, grpo | 3 | 0.100, then 0.750 (0.500 to 1.000) | 0.400, then 1.000" in page
    )
    assert "2.00 nats" in page
    assert "64 responses to held-out prompts, sampled at temperature 1" in page
    assert "Gait" not in page
