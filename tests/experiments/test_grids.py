"""The grids that are shipped, and the results that they are said to reproduce."""

import dataclasses
from pathlib import Path

import pytest

from experiments.grids import grid
from experiments.run import records
from experiments.run.loop import env_steps, total_iterations
from experiments.run.presets import preset
from experiments.run.spec import algorithm, make_env

RESULTS = Path(__file__).parents[2] / "results"
PAGES = {
    "walker": "walker-algorithms",
    "classic": "classic",
    "mujoco": "mujoco",
    "tokens": "tokens",
}


def settings_of(cell):
    """Those that differ from the algorithm's defaults; as JSON has them."""
    config = preset(cell.env, cell.algo, cell.config_type)
    told = {field.name: field.default for field in dataclasses.fields(config)}
    found = {**dataclasses.asdict(config), **cell.flags}
    found = {name: value for name, value in found.items() if value != told[name]}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


def test_quick_settings_change_the_presets():
    config_type = algorithm("ppo", "control").Config
    usual, quick = (preset("walker", "ppo", config_type, quick=quick) for quick in (False, True))
    assert quick.total_steps < usual.total_steps / 4
    assert quick.hidden_sizes == usual.hidden_sizes


def whole_iterations(cell):
    """The steps of a run, rounded up."""
    config = preset(cell.env, cell.algo, cell.config_type)
    config = dataclasses.replace(config, **{**cell.flags, "total_steps": cell.steps()})
    algo = algorithm(cell.algo, cell.domain)(config, make_env(cell.env, {}))
    return env_steps(algo, total_iterations(cell.steps(), algo))


@pytest.mark.parametrize("name", PAGES)
def test_a_grid_reproduces_what_is_published(name):
    cells = {(cell.env, cell.algo): cell for cell in grid.load(name)}
    grid.check(list(cells.values()))
    _, published = records.read(RESULTS / PAGES[name] / "records.json")
    steps = {
        key: whole_iterations(cells[key]) for key in {(r["env"], r["algo"]) for r in published}
    }
    for record in published:
        cell = cells[record["env"], record["algo"]]
        expected, found = settings_of(cell), dict(record["settings"])
        assert found.pop("total_steps", cell.steps()) == steps[cell.env, cell.algo]
        expected.pop("total_steps", None)
        assert found == expected, (record["env"], record["algo"], record["seed"])
