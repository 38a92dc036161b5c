import numpy as np
import pytest

from agents import ALGORITHMS
from experiments.analysis import literature
from experiments.pages import results
from experiments.pages.readme import GOALS


def record(env, algo, *, seed=0, last=None, final=0.0, evaluations=(), env_steps=1_000_000):
    return {
        "env": env,
        "algo": algo,
        "seed": seed,
        "train_return_last_100": last,
        "final": {"mean": final},
        "evaluations": evaluations,
        "env_steps": env_steps,
    }


def by_metric(found):
    return {c.best.metric: c for c in literature.against(found)[0]}


def test_a_number_is_there_once_and_of_an_algorithm_of_ours():
    keys = [(r.task, r.algo, r.metric, r.source) for r in literature.TABLE]
    assert len(set(keys)) == len(keys)
    assert {r.algo for r in literature.TABLE} <= set(ALGORITHMS)
    assert {r.source for r in literature.TABLE} == set(literature.SOURCES)
    assert {r.metric for r in literature.TABLE} == set(literature.METRICS)


def test_the_goals_of_the_overview_are_tianshous_returns():
    """Tianshou's MuJoCo benchmark at 1M steps, mean over ten seeds of the highest point, to whole numbers."""
    algos = ("reinforce", "a2c", "ppo", "trpo", "td3", "sac")
    for env, returns in {
        "HalfCheetah-v5": (1139, 1830, 5784, 4471, 10201, 12139),
        "Hopper-v5": (416, 1253, 2609, 2046, 3472, 3542),
        "Walker2d-v5": (441, 1092, 3589, 3827, 3982, 5007),
    }.items():
        assert GOALS[env] == dict(zip(algos, returns, strict=True))


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ("Hopper-v5", ("Hopper", "v5")),
        ("gym:Hopper-v4", ("Hopper", "v4")),
        ("robots.py:Hopper", ("", "")),
        ("walker", ("", "")),
    ],
)
def test_tasks_by_name_and_version(env, expected):
    assert literature.task(env) == expected


def test_references_run_from_random_to_the_best_of_any_algorithm():
    assert literature.reference("HalfCheetah-v5") == (-264.0, 12139)
    assert literature.reference("MountainCar-v0") == (-200.0, -100.8)
    assert literature.reference("probe-constant") is None
    tasks = {row.task for row in literature.TABLE}
    assert tasks == set(literature.RANDOM)
    for low, high in (literature.reference(f"{task}-v5") for task in tasks):
        assert low < high


@pytest.mark.parametrize(
    ("value", "verdict"), [(9.0, "above"), (10.0, "within"), (12.0, "within"), (12.1, "below")]
)
def test_verdicts(value, verdict):
    assert literature.judge(value, 10.0, 12.0) == verdict


def test_each_number_is_met_by_its_own_metric():
    """Hopper with PPO: 2383 in training, 2609 at the best evaluation, 2410 (rl-zoo3) at the end."""
    found = [
        record("Hopper-v5", "ppo", seed=s, last=2400.0 + s, final=2000.0 + s, evaluations=e)
        for s, e in enumerate(
            [
                [(1, 3000.0, 9), (2, 2000.0, 9), (3, 2500.0, 9)],
                [(1, 1000.0, 9), (2, 2000.0, 9), (3, 2700.0, 9)],
            ]
        )
    ]
    of = by_metric(found)
    assert (of["final"].value, of["final"].verdict) == (2400.5, "above")
    # The best of each seed, 2850 on average, would flatter: the published curve was averaged before.
    assert (of["max"].value, of["max"].low, of["max"].high) == (2600.0, 2500.0, 2700.0)
    assert of["max"].verdict == "within"
    assert (of["evaluation"].value, of["evaluation"].verdict) == (2000.5, "below")
    assert of["evaluation"].best.source == "rl-zoo3"


def test_of_several_sources_the_best_counts():
    (trpo,) = literature.against([record("Walker2d-v5", "trpo", final=4600.0)])[0]
    assert (trpo.best.source, trpo.best.value, trpo.verdict) == ("rl-zoo3", 4933, "below")


def test_many_seeds_have_a_bootstrap_interval():
    scores = np.random.default_rng(0).normal(2383, 100, 10)
    final = by_metric([record("Hopper-v5", "ppo", seed=i, last=x) for i, x in enumerate(scores)])
    assert scores.min() < final["final"].low < final["final"].value < final["final"].high
    assert final["final"].high < scores.max()
    assert final["final"].verdict == "within"


def test_curves_are_met_as_far_as_all_go():
    found = [
        record(
            "Hopper-v5", "ppo", seed=0, evaluations=[(10, 0.0, 1), (20, 10.0, 1), (30, 99.0, 1)]
        ),
        record("Hopper-v5", "ppo", seed=1, evaluations=[(5, 0.0, 1), (25, 20.0, 1)]),
    ]
    assert by_metric(found)["max"].value == pytest.approx((10 + 15) / 2)


@pytest.mark.parametrize(
    ("steps", "budget"),
    [(985_000, "as many"), (1_001_472, "as many"), (500_000, "fewer"), (3_000_000, "more")],
)
def test_budgets(steps, budget):
    (c,) = literature.against([record("Hopper-v5", "a2c", final=1.0, env_steps=steps)])[0]
    assert c.budget == budget


def test_what_has_no_published_number_is_named():
    compared, alone = literature.against([record("CartPole-v1", "pqn"), record("walker", "ppo")])
    assert compared == []
    assert alone == [("CartPole-v1", "pqn"), ("walker", "ppo")]


def test_the_page():
    found = [record("Ant-v5", "sac", final=5000.0, env_steps=200_000)]
    found += [record("CartPole-v1", "ppo", seed=s, last=480.0 + s, final=500.0) for s in (0, 1)]
    found += [record("CartPole-v1", "pqn")]
    page = "\n".join(results.against_published(found))
    expected = (
        "| Ant-v5 | sac | evaluation | 5000.0 | - | 1 | 4616 | rl-zoo3, v3 | 200 k / 1 M, fewer | above |",
        "| CartPole-v1 | ppo | final | 480.5 | 480.0 to 481.0 (range) | 2 | 490 | CleanRL, v1 "
        "| 1 M / 500 k, more | below |",
        "At or above the published number (above or within): 2 of 3 (67%); "
        "of those with no more steps than the published runs had: 1 of 1 (100%).",
        "v5 differs in rewards and healthy ranges for Walker2d, Ant and Humanoid",
        "No published number is known here for pqn on CartPole-v1.",
    )
    for words in expected:
        assert words in page
    assert "Tianshou" not in page
    assert "v5 differs" not in "\n".join(results.against_published(found[1:]))
    assert results.against_published(found[-1:]) == []
