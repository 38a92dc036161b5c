from experiments import overview
from experiments.overview import BEGIN, END, ROOT
from experiments.pages.readme import text


def record(env, algo, final, best, minutes=1.0, seeds=1):
    return {
        "env": env,
        "algo": algo,
        "run": {"seed": 0, "seeds": seeds},
        "wall_clock_s": 60 * minutes,
        "final": {"mean": final},
        "evaluations": [(10, best, 1), (20, final, 1)],
        "env_steps": 20,
        "train_return_last_100": final,
        "report": {"gait": {"walks": final > 200.0}},
    }


def test_readme_shows_what_is_published():
    shown = (ROOT / "README.md").read_text().split(BEGIN)[1].split(END)[0]
    assert shown.strip() == text(overview.all_records())


def test_medians_goals_and_what_is_missing():
    found = [record("Acrobot-v1", "dqn", x, 0.0) for x in (-70.0, -85.0, -90.0)]
    found += [record("Hopper-v5", "ppo", 100.0, 3000.0), record("CartPole-v1", "ppo", 500.0, 500.0)]
    lines = text(found).splitlines()
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:13]]
    cells = {(row[0], algo): cell for row in rows for algo, cell in zip(head, row, strict=True)}
    assert cells["Acrobot", "`dqn`"] == "-85.0 (3)"
    assert cells["Acrobot", "`ppo`"] == "·"
    assert [env for (env, algo), cell in cells.items() if algo == "`sac`" and cell == "-"] == [
        "CartPole",
        "Acrobot",
        "MountainCar",
    ]
    # Hopper is judged by the highest point of its curve, and is not below; by the episodes of training it is.
    assert lines[-2] == (
        "Below the target: dqn on Acrobot -85.0 (target -80.0); "
        "ppo on Hopper 100 over the last 100 training episodes (target 2383)."
    )
    assert "trpo on CartPole" in lines[-1]
    assert "ppo on Hopper" not in lines[-1]


def test_one_that_does_not_walk_is_named():
    line = text([record("walker", "dqn", 190.0, 190.0), record("walker", "sac", 206.0, 206.0)])
    assert "Below the target: dqn on walker does not walk." in line


def test_one_that_takes_too_long_is_named():
    found = [record("walker", "ppo", 230.0, 230.0, minutes=24, seeds=2)] * 2  # two seeds, one run
    found += [record("walker", "sac", 206.0, 206.0, minutes=19)]
    assert text(found).endswith("wall clock of a run by its seeds: ppo 12.")
