import dataclasses
import json

import pytest

import agents
from envs.biped.walker import Walker
from experiments.evaluation import evaluator
from experiments.pages import goals as pages
from experiments.run import goals, loop, summary
from tests.experiments import stub
from tests.experiments.test_runner import train

MOMENT = (100, 1.5)


def judge(score):
    return {"walks": score >= 1, "runs": score >= 2}


def test_a_goal_counts_once_a_final_evaluations_episodes_reach_it():
    asked = []

    def enlarged(*scores):
        return lambda: asked.append(scores) or list(scores)

    reached = goals.note({}, judge, [0, 0], enlarged(), MOMENT)
    assert (reached, asked) == ({}, [])  # nothing new: nothing is enlarged
    reached = goals.note(reached, judge, [1, 0], enlarged(0, 0), MOMENT)
    assert reached == {"0": {}, "1": {}}  # luck, said the larger one
    reached = goals.note(reached, judge, [1, 0], enlarged(2, 0), MOMENT)
    assert reached == {"0": {"walks": [100, 1.5], "runs": [100, 1.5]}, "1": {}}
    later = (200, 2.5)
    assert goals.note(reached, judge, [2, 0], enlarged(), later) == reached
    reached = goals.note(reached, judge, [2, 1], enlarged(0, 1), later)
    assert reached == {"0": {"walks": [100, 1.5], "runs": [100, 1.5]}, "1": {"walks": [200, 2.5]}}
    assert json.loads(json.dumps(reached)) == reached


def test_entries_of_seeds_and_of_the_run():
    names = judge(0)
    first = goals.entries(names, {"walks": [100, 1.5]})
    assert first == {"walks": {"env_steps": 100, "wall_clock_s": 1.5}, "runs": None}
    second = goals.entries(names, {"walks": [300, 2.5]})
    assert goals.of_seeds([first, second]) == {
        "walks": {"seeds": 2, "env_steps": 200, "wall_clock_s": 2.0},
        "runs": {"seeds": 0, "env_steps": None, "wall_clock_s": None},
    }


def test_the_loop_notes_goals_and_judges_them_by_as_many_episodes_as_in_the_end(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(agents.ALGORITHMS, "stub", stub.Stub)
    judged = []

    def at_second_look(algo, episodes):
        judged.append(len(episodes.returns))
        return {"here": len(judged) > 1}

    control = evaluator.evaluator("control")
    replaced = dataclasses.replace(control, goals=at_second_look)
    for module in (loop, summary):
        monkeypatch.setattr(module, "evaluator", lambda domain: replaced)
    finished = train(tmp_path / "run", stub.spec(total_steps=160))
    n = judged[0]
    assert judged[1] == n  # the second mark reached it ...
    assert judged[2] == 4 * n  # ... so it was enlarged
    at = finished.progress.reached["0"]["here"]
    assert 0 < at[0] < 160
    assert 0 < at[1] < finished.progress.wall_clock_s


def test_the_walkers_goals():
    report = {"gait": {"walks": True, "return": 215.9}}
    assert Walker().goals(report) == {"walks": True, "return_216": False}


@pytest.fixture
def seeds():
    a, b = ({"walks": {"env_steps": n, "wall_clock_s": n / 1e5}, "far": None} for n in (1e6, 3e6))
    return [a, b, {"walks": None, "far": None}]


def test_the_table_tells_old_runs_from_seeds_that_never_reached_a_goal(seeds):
    text = "\n".join(pages.table({"ppo": seeds, "sac": [None]}, "walker"))
    assert (
        "| ppo | 2 M (1 M to 3 M), 0 min 20 s (0 min 10 s to 0 min 30 s); 2 of 3 seeds | never, 0 of 3 seeds |"
        in text
    )
    assert "| sac | - | - |" in text
    assert "A dash: the run is from before this was measured." in text
    assert "A dash" not in "\n".join(pages.table({"ppo": seeds}, "walker"))
    # A page of old runs alone has the columns of a gait.
    assert "| algorithm | first walks | first return 216 |" in "\n".join(
        pages.table({"ppo": [None]}, "walker")
    )


def test_the_column_of_single_runs():
    reached = {"walks": {"seeds": 1, "env_steps": 2e6, "wall_clock_s": 61.0}}
    assert pages.moment(reached, "walks") == "2 M, 1 min 01 s"
    assert pages.moment(None, "walks") == "-"
    none = {"seeds": 0, "env_steps": None, "wall_clock_s": None}
    assert pages.moment({"walks": none}, "walks") == "never"
