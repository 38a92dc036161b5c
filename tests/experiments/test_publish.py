import json
from pathlib import Path

import pytest

import agents
from experiments import publish
from experiments.figures import comparison, preferences
from experiments.pages import publication, results
from experiments.run import command, folders, records
from experiments.run.provenance import provenance
from tests.experiments import stub
from tests.experiments.test_records import ROWS, make_run

ROOT = Path(__file__).parents[2]
SUITES = ("classic", "mujoco", "tokens", "walker-algorithms", "walker-preferences")


@pytest.fixture(autouse=True)
def _stub(monkeypatch):
    monkeypatch.setitem(agents.ALGORITHMS, "stub", stub.Stub)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "probe"
    flags = ["--env", "probe-delayed", "--total-steps", "4096", "--out", str(folder)]
    assert command.main(flags) == 0
    return folder


@pytest.fixture
def suite(tmp_path):
    """Two environments; on one of them, five seeds in two runs."""
    folder = tmp_path / "suite"
    make_run(folder / "probe-constant" / "stub" / "seeds_0-2", seeds=3)
    make_run(folder / "probe-constant" / "stub" / "seeds_3-4", seed=3, seeds=2)
    make_run(folder / "probe-action" / "stub" / "seeds_0-0", env="probe-action", seeds=1)
    return folder


def section(page, heading):
    return page.split(f"## {heading}\n")[1].split("\n## ")[0]


def test_a_finished_run_goes_on_record(run, tmp_path):
    out = tmp_path / "results"
    assert publish.publish([str(run), "--out", str(out), "--title", "Probes"]) == 0
    page = (out / "README.md").read_text()
    assert page.startswith("# Probes\n")
    (row,) = (line for line in page.splitlines() if line.startswith("| probe-delayed"))
    assert " 1.0 ± 0.0 " in row  # the probe's only return
    assert "duty" not in page
    (record,) = json.loads((out / "runs.json").read_text())
    assert record["evaluations"][0][-1] == [4096, 1.0]
    assert record["config"]["env"] == "probe-delayed"
    assert (out / "curves.png").stat().st_size > 10_000


def test_an_unfinished_run_is_refused(run, tmp_path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.json").write_text((run / "config.json").read_text())
    with pytest.raises(ValueError, match="not finished"):
        publish.publish([str(unfinished), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["walker", "walker-as-printed"])
def test_the_walkers_page_is_made_as_ever(name):
    folder = ROOT / "results" / name
    labels, configs, summaries = zip(
        *(
            (r["label"], r["config"], r["summary"])
            for r in json.loads((folder / "runs.json").read_text())
        ),
        strict=True,
    )
    page = (folder / "README.md").read_text()
    title = page.splitlines()[0].removeprefix("# ")
    assert results.of_runs(title, labels, configs, summaries) == page


@pytest.mark.parametrize("name", SUITES)
def test_the_suites_pages_are_made_of_their_records(name):
    folder = ROOT / "results" / name
    title, found = records.read(folder / "records.json")
    pictures = {r["env"]: f"curves-{r['env']}.png" for r in found}
    page = (folder / "README.md").read_text()
    notes = folder / publication.NOTES
    text = notes.read_text() if notes.exists() else ""
    learned = {"walker": "preferences-walker.png"} if name == "walker-preferences" else None
    assert results.of_suite(title, found, pictures, text, learned) == page
    assert ("## Against published numbers" in page) == (name in ("classic", "mujoco"))


def test_a_command_stands_below_its_commit():
    _, found = records.read(ROOT / "results" / "mujoco" / "records.json")
    made = "\n".join(results.how_made(found))
    for r in found:
        below = made.split(f"- commit {results.short_commit(r['commit'])}; ")[1:]
        assert any(r["command"] in part.split("- commit ")[0] for part in below)


def test_a_suite_goes_on_record_and_its_records_are_enough(suite, tmp_path):
    out, again = tmp_path / "results", tmp_path / "again"
    assert publish.publish([str(suite), "--out", str(out), "--title", "Two probes"]) == 0
    page = (out / "README.md").read_text()
    assert page.startswith("# Two probes\n")
    # Seeds 0 to 2 have 2.5, 3.5, 4.5, and seeds 3 and 4 again 2.5 and 3.5.
    expected = "| stub | 2.50 (n=1) | 3.50 (2.50 to 4.50, n=5) |"
    assert expected in section(page, "Final evaluation")
    assert "| algorithm | probe-action | probe-constant |" in section(page, "Final evaluation")
    assert "4.00 (3.00 to 5.00, n=5)" in section(page, "Best evaluation")
    assert "3.70 (2.70 to 4.70, n=5)" in section(page, "Last 100 training episodes")
    twice = "0 min 12 s (0 min 12 s to 0 min 12 s)"
    assert f"| 0 min 12 s | {twice} |" in section(page, "Wall clock")
    made = section(page, "How they were made")
    assert "--env probe-constant --algo stub --seed 3 --seeds 2 --total-steps 40" in made
    assert f"jax {provenance()['versions']['jax']}" in made
    assert made.count("- commit ") == 1  # one commit on one machine
    pictures = ["curves-probe-action.png", "curves-probe-constant.png"]
    assert sorted(p.name for p in out.glob("*.png")) == pictures
    assert all(f"]({picture})" in page for picture in pictures)

    assert publish.publish([str(out / "records.json"), "--out", str(again)]) == 0
    for file in ("README.md", "records.json", *pictures):
        assert (again / file).read_bytes() == (out / file).read_bytes()


def test_rewards_learned_from_preferences_have_a_figure(tmp_path):
    learned = dict.fromkeys(preferences.METRICS, 0.5)
    rows = [{**row, **learned} for row in ROWS]
    make_run(tmp_path / "suite" / "run", rows=rows)
    out = tmp_path / "out"
    publish.publish([str(tmp_path / "suite"), "--out", str(out)])
    page = (out / "README.md").read_text()
    assert "](preferences-probe-constant.png)" in section(page, "The learned reward")
    assert (out / "preferences-probe-constant.png").stat().st_size > 10_000
    publish.publish([str(out / "records.json"), "--out", str(out)])
    assert (out / "README.md").read_text() == page


def test_what_a_person_has_to_say_stays_on_the_page(suite, tmp_path):
    out = tmp_path / "out"
    publish.publish([str(suite), "--out", str(out)])
    assert "## Notes" not in (out / "README.md").read_text()
    (out / publication.NOTES).write_text("The probe of constants is easy.\n")
    publish.publish([str(out / "records.json"), "--out", str(out)])
    found = section((out / "README.md").read_text(), "Notes")
    assert found.strip() == "The probe of constants is easy."


def test_an_equal_number_of_seeds_is_said_once(suite, tmp_path):
    folder = suite / "probe-constant"
    publish.publish([str(folder), "--out", str(tmp_path / "out")])
    page = (tmp_path / "out" / "README.md").read_text()
    assert "5 seeds each" in page
    assert "n=" not in page


def test_the_walkers_gait_has_a_table_of_its_own(suite, tmp_path):
    file = suite / "probe-action" / "stub" / "seeds_0-0" / "summary.json"
    (walker, *_) = json.loads((ROOT / "results" / "walker" / "runs.json").read_text())
    summary = json.loads(file.read_text())
    (seed,) = summary["per_seed"] = walker["summary"]["per_seed"]
    seed |= {"eval_return_mean": 231.66, "eval_return_std": 27.54}
    seed |= {"survival_rate": 0.982, "distance_m": 6.06}
    seed["gait"] |= {"alternation": 0.999, "flight": 0.006, "duty_right": 0.51, "duty_left": 0.52}
    folders.write_json(file, summary)
    publish.publish([str(suite), "--out", str(tmp_path / "out")])
    gait = section((tmp_path / "out" / "README.md").read_text(), "Gait, probe-action")
    assert "| stub | 231.7 ± 27.5 | 98.2% | 6.06 m | 0.999 | 0.51, 0.52 | 0.6% | yes |" in gait


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["suite", "suite/probe-action"], "probe-action with stub, seed 0, is there twice"),
        (["empty"], "no finished run in"),
        (["nothing"], "there is no"),
        ([], "folders"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(suite, tmp_path, names, message):
    (tmp_path / "empty").mkdir()
    inputs = [str(tmp_path / name) for name in names]
    with pytest.raises(ValueError, match=message):
        publish.publish([*inputs, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", "mine"])
def test_what_others_wrote_is_not_overwritten(suite, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name / "README.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("# A project\n\nOf mine.\n")
    with pytest.raises(ValueError, match="--out is empty" if not name else "mine/README"):
        publish.publish([str(suite), "--out", name])
    assert path.read_text() == "# A project\n\nOf mine.\n"
    assert not (path.parent / "records.json").exists()


def test_pages_of_ours_are_known_as_such():
    for name in ("walker", "walker-as-printed", *SUITES):
        page = (ROOT / "results" / name / "README.md").read_text()
        assert (results.is_of_runs(page), results.is_of_suite(page)) == (
            name not in SUITES,
            name in SUITES,
        )
    for text in ("", "# A project", (ROOT / "README.md").read_text()):
        assert not results.is_of_runs(text)
        assert not results.is_of_suite(text)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_does_not_replace_the_page_of_a_suite(suite, tmp_path):
    out = tmp_path / "out"
    assert publish.publish([str(suite), "--out", str(out)]) == 0
    before = contents(out)
    run = suite / "probe-action/stub/seeds_0-0"
    with pytest.raises(ValueError, match=r"README\.md was not written by this command"):
        publish.publish([str(run), "--out", str(out)])
    assert contents(out) == before
    assert publish.publish([str(run), "--out", str(tmp_path / "one")]) == 0
    with pytest.raises(ValueError, match=r"README\.md was not written by this command"):
        publish.publish([str(suite), "--out", str(tmp_path / "one")])
    assert publish.publish([str(run), "--out", str(tmp_path / "one")]) == 0


@pytest.mark.parametrize(
    "name", ["records.json", "curves-probe-action.png", "curves-probe-constant.png"]
)
def test_no_file_of_a_bystander_is_replaced(suite, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"mine": 1}')
    (out / "records.tmp").write_text("mine")
    with pytest.raises(ValueError, match=f"{name} was not written by this command"):
        publish.publish([str(suite), "--out", str(out)])
    assert contents(out) == {name: b'{"mine": 1}', "records.tmp": b"mine"}


def test_a_publish_that_fails_keeps_the_records_there_are(suite, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert publish.publish([str(suite), "--out", str(out)]) == 0
    before = contents(out)

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(comparison, "quartile_bands", fails)
    with pytest.raises(OSError, match="disk full"):
        publish.publish([str(suite / "probe-action"), "--out", str(out)])
    assert contents(out) == before
    with pytest.raises(OSError, match="disk full"):
        publish.publish([str(suite), "--out", str(tmp_path / "new/out")])
    assert not (tmp_path / "new").exists()


def test_names_that_end_alike_have_a_figure_each(tmp_path):
    envs = ("CartPole-v1", "gym:CartPole-v1", "/x/a.py:Robot", "/x/b.py:Robot")
    for i, env in enumerate(envs):
        make_run(tmp_path / f"runs/{i}", env=env, seeds=1)
    out = tmp_path / "out"
    assert publish.publish([str(tmp_path / "runs"), "--out", str(out)]) == 0
    names = ["CartPole-v1", "a.py-Robot", "b.py-Robot", "gym-CartPole-v1"]
    assert sorted(p.name for p in out.glob("*.png")) == [f"curves-{name}.png" for name in names]
    page = (out / "README.md").read_text()
    head = "| algorithm | CartPole-v1 | a.py:Robot | b.py:Robot | gym:CartPole-v1 |"
    assert head in section(page, "Final evaluation")
    assert all(f"](curves-{name}.png)" in page for name in names)


def test_the_file_of_an_environment_is_not_run(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("raise SystemExit('it was run')")
    folder = make_run(tmp_path / "run", env=f"{file}:Mine", seeds=1)
    assert publish.publish([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert publish.publish([str(folder), "--out", str(tmp_path / "one")]) == 0
    (record,) = records.read(tmp_path / "out/records.json")[1]
    assert record["env"] == "mine.py:Mine"
    assert (
        "--env mine.py:Mine --algo stub --seed 0 --seeds 1 --max-episode-steps 10"
        in (record["command"])
    )


def test_names_are_inert_on_a_page(tmp_path):
    wicked = "a|b\n<img src=x onerror=alert(1)>[click](https://evil.example)`$x$"
    folder = make_run(tmp_path / "run", seeds=1, name=wicked)
    config = json.loads((folder / "config.json").read_text())
    config |= {"algo": wicked, "machine": {"cpu": wicked, "cores": 1, "device": "```"}}
    folders.write_json(folder / "config.json", config)
    for what, out in ((folder, "one"), (tmp_path / "run/..", "suite")):
        flags = [str(what), "--out", str(tmp_path / out), "--title", wicked]
        assert publish.publish(flags) == 0
        page = (tmp_path / out / "README.md").read_text()
        prose, *_ = page.split("```\npython") if "```\npython" in page else (page,)
        assert "<img" not in prose
        assert "[click](" not in prose
        assert "a|b" not in prose
        heads = [line for line in prose.splitlines() if line.startswith("|---")]
        rows = [line for line in prose.splitlines() if line.startswith("| ")]
        widths = {line.replace(r"\|", "").count("|") for line in rows}
        assert widths <= {head.count("|") for head in heads}


def test_a_seed_that_diverged_is_never_scored_at_its_last_good_value(tmp_path):
    rows = [
        {"env_steps": 20, "eval/return": 3.0, "eval/length": 9.0},
        {"env_steps": 40, "eval/return": None, "eval/length": 9.0},
    ]
    make_run(tmp_path / "runs/good", seeds=2)
    bad = make_run(tmp_path / "runs/bad", seed=2, seeds=1, rows=rows)
    summary = json.loads((bad / "summary.json").read_text())
    for of in (summary, *summary["per_seed"]):
        of |= {"eval_return_mean": None, "eval_return_std": None}
    folders.write_json(bad / "summary.json", summary)
    out = tmp_path / "out"
    assert publish.publish([str(tmp_path / "runs"), "--out", str(out)]) == 0
    page = (out / "README.md").read_text()
    assert "one seed diverged, and counts as worse than any" in page
    assert "| stub | 2.50 (not finite to 3.50) |" in section(page, "Final evaluation")
    assert "| stub | 3.00 (not finite to 4.00) |" in section(page, "Best evaluation")
    assert publish.publish([str(bad), "--out", str(tmp_path / "one")]) == 0
    assert "| not finite |" in (tmp_path / "one/README.md").read_text()
