import contextlib
import json
import re
import shutil
import subprocess
import urllib.request

import numpy as np
import pytest

from experiments import report
from experiments.analysis.groups import band, grouped
from experiments.analysis.scores import scores
from experiments.analysis.sources import read
from experiments.figures.canvas import CONTROL
from experiments.pages import explorer
from experiments.run import folders
from tests.experiments.test_compare import summary

METRIC = "eval/return"
WICKED = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>&amp;"
TINY_VIDEO = b"not really a film"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_run(folder, *, env="CartPole-v1", algo="ppo", seed=0, values=(0.0, 10.0), **config):
    """One seed, a value every 100 steps and 2 seconds."""
    fields = {"env": env, "env_kwargs": {"gravity": 9.8}, "algo": algo, "config": config}
    folders.create(folder, {**fields, "seed": seed, "seeds": 1})
    rows = [
        {"env_steps": 100 * i, "wall_clock_s": 2.0 * i, METRIC: v} for i, v in enumerate(values)
    ]
    folders.append_rows(folder / "metrics.jsonl", rows)
    folders.write_json(folder / "summary.json", summary(seed, values))
    return folder


def some_runs(top):
    """Two algorithms on one environment, three seeds of the first, with names out to break the page; another
    environment; and a video."""
    for seed, last in enumerate((10.0, 20.0, 60.0)):
        make_run(top / f"a{seed}", seed=seed, values=(0.0, 70.0, last), learning_rate=0.1, epochs=4)
    make_run(top / "wicked", algo=WICKED, values=(0.0, 5.0, -5.0), learning_rate=0.2, name=WICKED)
    make_run(top / "d", env="Acrobot-v1", algo="dqn", values=(-500.0, -90.0), learning_rate=0.3)
    (top / "a0/video.mp4").write_bytes(TINY_VIDEO)
    return top


def of(content, env, label):
    (found,) = [e for e in content["envs"] if e["name"] == env]
    (group,) = [g for g in found["groups"] if content["labels"][g["label"]] == label]
    return group


def test_figures_are_those_of_compare(tmp_path):
    some_runs(tmp_path)
    content = explorer.gather([tmp_path], ["env", "algo"], METRIC)
    curves = [c for c in read([tmp_path], METRIC).curves if c.fields["algo"] == "ppo"]
    group = of(content, "CartPole-v1", "ppo")
    for x in ("steps", "seconds"):
        grid, iqm, _, low, high = band(curves, x)
        drawn = group["band"][x]
        for name, expected in {"x": grid, "iqm": iqm, "low": low, "high": high}.items():
            np.testing.assert_allclose(drawn[name], expected, rtol=1e-4, atol=1e-4)
    assert (group["final"]["iqm"], group["best"]["iqm"]) == (30, 70)
    rows = scores(grouped(curves, ["env", "algo"]), None)
    (low, high) = next((row[5], row[6]) for row in rows if row[2] == "final")
    assert (group["final"]["low"], group["final"]["high"]) == (float(low), float(high))
    assert [(s["seed"], s["steps"], s["seconds"], s["y"]) for s in group["seeds"]][2] == (
        "2", [0, 100, 200], [0, 2, 4], [0, 70, 60],
    )  # fmt: skip
    assert [e["name"] for e in content["envs"]] == ["CartPole-v1", "Acrobot-v1"]
    alone = of(content, "Acrobot-v1", "dqn")  # one seed: no interval
    assert alone["final"] == {"iqm": -90, "mean": -90, "low": None, "high": None}
    assert set(alone["band"]["steps"]["low"]) == {None}


def test_configurations_and_videos(tmp_path):
    some_runs(tmp_path)
    (tmp_path / "d/video.gif").write_bytes(b"0" * (explorer.VIDEO_BYTES + 1))
    content = explorer.gather([tmp_path], ["env", "algo"], METRIC)
    told = {run["name"]: run for run in content["runs"]}
    assert set(told) == {"a0", "a1", "a2", "d", "wicked"}
    first = told["a0"]
    assert first["config"]["learning_rate"] == "0.1"
    assert first["config"]["env.gravity"] == "9.8"
    assert first["config"]["version.numpy"] == np.__version__
    assert first["video"]["uri"].startswith("data:video/mp4;base64,")
    assert told["d"]["video"] is None
    assert any(note.startswith("d: video.gif (4.0 MB) is left out") for note in content["notes"])
    labels = [content["labels"][i] for i in told["d"]["labels"]]
    assert (labels, content["envs"][told["d"]["env"]]["name"]) == (["dqn"], "Acrobot-v1")


def test_an_algorithm_has_the_colour_it_has_in_figures(tmp_path):
    for algo in ("sac", "mine", "ppo"):
        make_run(tmp_path / algo, algo=algo)
    content = explorer.gather([tmp_path], ["env", "algo"], METRIC)
    assert content["labels"] == ["mine", "ppo", "sac"]
    assert content["places"] == [1, CONTROL.index("ppo"), CONTROL.index("sac")]


def test_where_the_runs_lie_is_not_told(tmp_path):
    make_run(tmp_path / "runs/a")
    make_run(tmp_path / "runs/b", seed=1, values=())
    content = explorer.gather([tmp_path / "runs"], ["env", "algo"], METRIC)
    assert content["notes"] == ["runs/b, seed 1: no eval/return yet"]
    assert str(tmp_path) not in explorer.page(content)


def test_all_videos_together_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(explorer, "ALL_VIDEOS_BYTES", 50)
    for i in range(3):
        make_run(tmp_path / f"r{i}", seed=i)
        (tmp_path / f"r{i}/video.mp4").write_bytes(TINY_VIDEO)
    content = explorer.gather([tmp_path], ["env", "algo"], METRIC)
    assert [run["video"] is not None for run in content["runs"]] == [True, False, False]
    assert sum("is left out" in note for note in content["notes"]) == 2


def test_settings_tell_runs_apart(tmp_path):
    make_run(tmp_path / "a", learning_rate=0.1)
    make_run(tmp_path / "b", algo="dqn", batch_size=32)
    content = explorer.gather([tmp_path], ["env", "learning-rate"], METRIC)
    assert content["labels"] == ["learning_rate 0.1", "learning_rate None"]
    assert content["places"] == [0, 1]
    assert [run["labels"] for run in content["runs"]] == [[0], [1]]


def test_seeds_of_a_record_are_one_run(tmp_path):
    shared = {
        "env": "X", "algo": "a", "settings": {"gamma": 0.9}, "wall_clock_s": 10.0, "env_steps": 20,
        "evaluations": [[10, 1.0, 4], [20, 2.0, 4]], "train_curve": [],
    }  # fmt: skip
    together = [{**shared, "seed": s} for s in (3, 4, 5)]
    (tmp_path / "records.json").write_text(json.dumps({"title": None, "records": together}))
    content = explorer.gather([tmp_path], ["env", "algo"], METRIC)
    (run,) = content["runs"]
    assert (run["name"], run["seeds"], run["complete"]) == ("X, a", "3 to 5", False)
    assert run["config"]["gamma"] == "0.9"
    assert "spread evenly" in content["notes"][0]


def test_unknown_wall_clock_and_long_curves(tmp_path):
    lines = ["env,algo,seed,env_steps,value"] + [f"X,theirs,1,{t},{t}" for t in range(1000)]
    (tmp_path / "theirs.csv").write_text("\n".join(lines))
    content = explorer.gather([tmp_path / "theirs.csv"], ["env", "algo"], METRIC)
    group = of(content, "X", "theirs")
    assert group["band"]["seconds"] is None
    assert (group["seeds"][0]["steps"][0], group["seeds"][0]["steps"][-1]) == (0, 999)
    assert len(group["seeds"][0]["y"]) == explorer.SEED_POINTS
    assert content["runs"] == []
    assert "400 of their up to 1000 points" in content["notes"][0]


def test_what_json_lacks_is_left_out(tmp_path):
    (tmp_path / "n.csv").write_text("env,algo,seed,env_steps,value\nX,a,1,0,1\nX,a,1,9,nan\n")
    content = explorer.gather([tmp_path / "n.csv"], ["env", "algo"], METRIC)
    assert of(content, "X", "a")["seeds"][0]["y"] == [1]
    assert of(content, "X", "a")["final"]["iqm"] is None
    assert "1 of 2 points are not finite" in content["notes"][0]
    assert "it diverged after step 0" in content["notes"][1]
    explorer.page(content)


def test_a_run_that_is_there_twice_is_shown_once(tmp_path):
    shutil.copytree(make_run(tmp_path / "runs/a"), tmp_path / "runs/b")
    make_run(tmp_path / "runs/damaged")
    (tmp_path / "runs/damaged/config.json").write_text("{")
    shared = {
        "env": "CartPole-v1", "algo": "ppo", "env_kwargs": {"gravity": 9.8}, "settings": {},
        "wall_clock_s": 2.0, "env_steps": 100, "evaluations": [[0, 0.0, 4]], "train_curve": [],
    }  # fmt: skip
    both = [{**shared, "seed": seed} for seed in (0, 1)]
    (tmp_path / "runs/records.json").write_text(json.dumps({"title": None, "records": both}))
    content = explorer.gather([tmp_path / "runs"], ["env", "algo"], METRIC)
    assert [(run["name"], run["seeds"]) for run in content["runs"]] == [
        ("a", "0"),
        ("CartPole-v1, ppo", "1"),
    ]
    assert [seed["seed"] for seed in of(content, "CartPole-v1", "ppo")["seeds"]] == ["0", "1"]
    assert any("runs/b repeats runs/a" in note for note in content["notes"])
    assert any("left out: runs/damaged" in note for note in content["notes"])


def test_runs_of_different_tasks_are_told_of(tmp_path):
    for seed, gravity in enumerate((9.8, 1.6)):
        folder = make_run(tmp_path / f"r{seed}", seed=seed)
        config = json.loads((folder / "config.json").read_text())
        folders.write_json(folder / "config.json", {**config, "env_kwargs": {"gravity": gravity}})
    (note,) = explorer.gather([tmp_path], ["env", "algo"], METRIC)["notes"]
    assert "(gravity 9.8, 1.6); --by env,algo,gravity tells them apart" in note
    content = explorer.gather([tmp_path], ["env", "algo", "gravity"], METRIC)
    assert content["labels"] == ["ppo, gravity 9.8", "ppo, gravity 1.6"]
    assert [run["labels"] for run in content["runs"]] == [[0], [1]]
    assert content["notes"] == []


def test_curves_without_common_steps_have_no_band(tmp_path):
    points = ((0, 0), (0, 10), (1, 20), (1, 30))
    lines = [f"X,a,{seed},{step},1" for seed, step in points]
    (tmp_path / "x.csv").write_text("\n".join(["env,algo,seed,env_steps,value", *lines]))
    content = explorer.gather([tmp_path / "x.csv"], ["env", "algo"], METRIC)
    assert of(content, "X", "a")["band"]["steps"] is None
    assert content["notes"] == [
        "X, a: stopped short, and not scored: seed 0 (at step 10)",
        "X, a: no band, as its curves have no steps in common",
    ]


def test_a_curve_of_one_point_is_a_point(tmp_path):
    (tmp_path / "one.csv").write_text("env,algo,seed,env_steps,value\nX,a,1,100,7\nX,a,2,100,9\n")
    content = explorer.gather([tmp_path / "one.csv"], ["env", "algo"], METRIC)
    band = of(content, "X", "a")["band"]["steps"]
    assert (band["x"], band["iqm"]) == ([100], [8])


def test_environments_of_one_short_name_have_longer_ones(tmp_path):
    make_run(tmp_path / "a", env="gym:A/Maze-v0")
    make_run(tmp_path / "b", env="gym:B/Maze-v0")
    content = explorer.gather([tmp_path], ["env", "algo"], METRIC)
    assert [e["name"] for e in content["envs"]] == ["A/Maze-v0", "B/Maze-v0"]


def test_the_page_is_whole_escaped_and_alone(tmp_path, capsys):
    some_runs(tmp_path / "runs")
    assert report.report(["runs", "--out", "new/page.html"]) == 0
    assert "page.html" in capsys.readouterr().out
    text = (tmp_path / "new/page.html").read_text()
    assert text.count("<script") == text.count("</script>") == 2
    assert "onerror=" not in text.replace("\\u003cimg src=x onerror=", "")
    (embedded,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert WICKED in json.loads(embedded)["labels"]
    outside = text.replace(embedded, "").replace("http://www.w3.org/2000/svg", "")
    for reference in ("http:", "https:", "//cdn", "src=", "@import", "url(", '<link rel="style'):
        assert reference not in outside
    assert not list((tmp_path / "new").glob("*.tmp"))


def test_a_page_of_somebody_else_is_not_overwritten(tmp_path):
    make_run(tmp_path / "a")
    (tmp_path / "thesis.html").write_text("<html>mine</html>")
    (tmp_path / "new.tmp").write_text("a bystander's")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ValueError, match=r"thesis\.html was not written by this command"):
        report.report(["a", "--out", "thesis.html"])
    with pytest.raises(ValueError, match=r"folder\.html is a folder"):
        report.report(["a", "--out", "folder.html"])
    for _ in range(2):
        assert report.report(["a", "--out", "new.html"]) == 0
    assert (tmp_path / "thesis.html").read_text() == "<html>mine</html>"
    assert (tmp_path / "new.tmp").read_text() == "a bystander's"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "which runs"),
        (["nowhere"], "there is no nowhere"),
        (["empty"], "there is no run in empty"),
        (["a", "b", "--by", "algo"], "runs of 2 environments"),
        (["a", "--by", "env,colour"], "--by colour: no run has that"),
        (["a", "--metric", "eval/retrun"], "no metric eval/retrun; there is eval/return"),
        (["a", "--out", "records.json"], "a name that ends in .html is wanted"),
    ],
)
def test_bad_input(flags, message, tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", env="Acrobot-v1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message) as told:
        report.report(flags)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "report.html").exists()


# In a browser, by the W3C WebDriver protocol, which is HTTP and JSON.

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"Right": "\ue014", "End": "\ue010", "Escape": "\ue00c"}


class Browser:
    def __init__(self, address, profile):
        self.at = address
        chrome = shutil.which("chromium") or shutil.which("google-chrome")
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        arguments += ["--disable-background-networking", "--disable-component-update"]
        arguments += ["--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={profile}"]
        wanted = {
            "goog:chromeOptions": {"binary": chrome, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        found = self.send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.at += f"/session/{found['sessionId']}"

    def send(self, method, path, body=None):
        content = None if body is None else json.dumps(body).encode()
        header = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.at + path, content, header, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]

    def run(self, script, *arguments):
        return self.send("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector):
        body = {"using": "css selector", "value": selector}
        return self.send("POST", "/element", body)[ELEMENT]

    def click(self, selector):
        self.send("POST", f"/element/{self.find(selector)}/click", {})

    def press(self, selector, *keys):
        text = "".join(KEYS[key] for key in keys)
        self.send("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def count(self, selector):
        """Of those that are seen."""
        return self.run(
            "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).length",
            selector,
        )


@pytest.fixture
def browser(tmp_path):
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no browser is installed: chromium or google-chrome is wanted")
    if not shutil.which("chromedriver"):
        pytest.skip("no chromedriver is installed to drive the browser with")
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with driver:
        try:
            port = next(
                m[1] for line in driver.stdout if (m := re.search(r"on port (\d+)\.", line))
            )
            browser = Browser(f"http://127.0.0.1:{port}", tmp_path / "profile")
            yield browser
            with contextlib.suppress(OSError):
                browser.send("DELETE", "")
        finally:
            driver.terminate()


def test_every_control_works_in_a_browser(tmp_path, browser):
    some_runs(tmp_path / "runs")
    report.report(["runs"])
    browser.send("POST", "/url", {"url": (tmp_path / "report.html").as_uri()})

    # Nothing of the names was executed, and they are read as they are.
    assert browser.run("return window.hacked === undefined && !document.querySelector('main img')")
    assert WICKED in browser.text("#scores")
    assert browser.count("#chart path.middle") == 2
    assert browser.count("#chart path.seed") == 0
    assert "Not smoothed" in browser.text("#caption")

    # The keyboard reads values: at the end of the axis those of the scores.
    browser.press("#chart", "Right")
    assert browser.text("#tip .faint") == "2 steps"
    browser.press("#chart", "End")
    read = browser.run("return document.getElementById('chart').getAttribute('aria-valuetext')")
    assert read.startswith("200 steps: ppo 30 (10 to 60); ")
    assert browser.text("#tip").endswith("\u22125")  # one seed, no interval
    browser.press("#chart", "Escape")
    assert browser.count("#tip") == 0
    browser.click("#chart")  # in its middle, which is not quite the axis's
    assert re.fullmatch(r"\d+ steps", browser.text("#tip .faint"))

    browser.click("#seeds")
    assert browser.count("#chart path.seed") == 4
    browser.press("#chart", "End")
    assert "seed 0: 10, 1: 20, 2: 60" in browser.text("#tip")

    before = browser.run("return document.querySelector('#chart path.middle').getAttribute('d')")
    browser.press("#smooth", "End")
    assert "mean over 20 % of the axis" in browser.text("#caption")
    assert browser.text("#smooth-value") == "20 %"
    after = browser.run("return document.querySelector('#chart path.middle').getAttribute('d')")
    assert after != before

    browser.click("#x-seconds")
    assert "wall clock, s" in browser.text("#chart")
    browser.press("#chart", "End")
    assert browser.text("#tip .faint") == "4 s"

    # Two configurations differ; without one of them nothing does.
    assert "learning_rate0.10.10.10.2" in browser.text("#differences")
    assert "epochs" not in browser.text("#differences")
    browser.click("#uncommon")
    assert "epochs444\u2013" in browser.text("#differences")
    assert browser.count("#runs details") == 4
    browser.click("#labels label:nth-of-type(2) input")
    assert browser.count("#chart path.middle") == 1
    assert browser.count("#runs details") == 3
    assert browser.count("#differences") == 0
    browser.click("#runs summary")
    assert browser.count("#runs video") == 1

    browser.click("#labels button:last-child")
    assert "no curve is chosen" in browser.text("#chart")
    assert browser.count("#labels input:checked") == browser.count("#runs details") == 0
    browser.click("#labels button:first-of-type")
    assert browser.count("#labels input:checked") == browser.count("#chart path.middle") == 2
    fading = "return document.querySelectorAll('#chart g.back').length"
    browser.run("document.querySelector('#labels input').focus()")
    assert browser.run(fading) == 1
    browser.run("document.activeElement.blur()")
    assert browser.run(fading) == 0

    # Sorted by the final score, then by name, then the other way.
    first = "return document.querySelector('#scores tbody th').textContent"
    assert browser.run(first) == "ppo"
    browser.click("#scores thead th:first-child button")
    ascending = "document.querySelector('#scores th[aria-sort=ascending]').dataset.key"
    assert browser.run(f"return {ascending}") == "label"
    names = browser.run(
        "return [...document.querySelectorAll('#scores tbody th')].map(e => e.textContent)"
    )
    browser.click("#scores thead th:first-child button")
    assert browser.run(first) == names[-1] != names[0]

    ground = "return getComputedStyle(document.body).backgroundColor"
    before = browser.run(ground)
    browser.click("#theme")
    assert browser.run(ground) != before

    browser.click("#env option:nth-child(2)")
    assert "Acrobot-v1" in browser.text("#scores-title")
    assert "\u221290" in browser.text("#scores")
    assert browser.count("#runs details") == 1

    # On a phone nothing but the tables is wider than the screen.
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": phone}
    for choice in (1, 2):
        browser.click(f"#env option:nth-child({choice})")
        browser.send("POST", "/goog/cdp/execute", command)
        browser.press("#chart", "End")
        assert browser.run("return document.documentElement.scrollWidth") == 390

    logged = browser.send("POST", "/se/log", {"type": "browser"})
    assert [line["message"] for line in logged] == []


def test_bare_pages_work_in_a_browser(tmp_path, browser):
    """One seed of one point, no wall clock, no configuration."""
    (tmp_path / "one.csv").write_text("env,algo,seed,env_steps,value\nX,a,1,100,7\n")
    report.report(["one.csv"])
    browser.send("POST", "/url", {"url": (tmp_path / "report.html").as_uri()})
    assert browser.run("return document.getElementById('x-seconds').disabled")
    assert browser.count("#chart circle") == 1
    assert browser.count("#known") == 0
    assert browser.text("#unknown") == "No configuration is known of: a."
    browser.click("#labels input")
    assert "no curve is chosen" in browser.text("#chart")
    browser.press("#chart", "End")
    assert browser.count("#tip") == 0
    assert browser.send("POST", "/se/log", {"type": "browser"}) == []
