"""Tables of learners from datasets."""

from experiments.pages.offline import data_table, score_tables, subject

FACTS = {
    "id": "stride/hopper/medium-v0",
    "sha256": "a" * 64,
    "steps": 1000,
    "episodes": 10,
    "return_mean": 1000.0,
    "return_best_decile": 2000.0,
    "ref_min": 0.0,
    "ref_max": 2000.0,
}


def record(algo, seed, score):
    final = {"mean": 20 * score, "score": score, "score_d4rl": None}
    return {"env": "walker", "algo": algo, "seed": seed, "dataset": FACTS, "final": final}


def test_scores_stand_beside_the_behaviours_own():
    seeds = [record("bc", i, score) for i, score in enumerate((40.0, 50.0, 60.0))]
    assert subject(seeds[0]) == FACTS["id"]
    assert subject({"env": "walker"}) == "walker"
    cells = {("bc", FACTS["id"]): seeds}
    lines = score_tables(cells, {FACTS["id"]: "medium-v0"})
    assert [line for line in lines if line.startswith("|")] == [
        "| algorithm | medium-v0 |",
        "|---|---|",
        "| behaviour | 50.0 |",
        "| best tenth of the data | 100.0 |",
        "| bc | 50.0 (40.0 to 60.0) |",
    ]
    assert not any("D4RL" in line for line in lines)
    assert (
        "| stride/hopper/medium-v0 | 1000 | 10 | 1000.0 | 2000.0 | 0.0 | 2000.0 | aaaaaaaaaaaa |"
        in (data_table(cells, {}))
    )


def test_runs_without_a_dataset_have_no_such_tables():
    cells = {("ppo", "walker"): [{"env": "walker", "final": {"mean": 1.0}}]}
    assert score_tables(cells, {"walker": "walker"}) == data_table(cells, {}) == []
