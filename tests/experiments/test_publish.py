import json

import pytest

from experiments import cli, publish


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "probe"
    flags = ["--env", "probe-delayed", "--total-steps", "4096", "--out", str(folder)]
    assert cli.main(flags) == 0
    return folder


def test_a_finished_run_goes_on_record(run, tmp_path):
    out = tmp_path / "results"
    assert publish.publish([str(run), "--out", str(out), "--title", "Probes"]) == 0
    page = (out / "README.md").read_text()
    assert page.startswith("# Probes\n")
    (row,) = (line for line in page.splitlines() if line.startswith("| probe-delayed"))
    assert " 1.0 ± 0.0 " in row  # the probe's only return
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
