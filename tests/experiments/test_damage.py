"""Files of runs and records that are damaged in every way: read, or refused in one line that names the file."""

import copy
import json
import random

import pytest

import agents
from experiments import publish, report
from experiments.analysis import sources
from experiments.compare import compare
from experiments.figures import comparison
from experiments.pages import explorer, readme, results
from experiments.run import folders, records, stored
from experiments.run.names import label_runs
from tests.experiments import stub
from tests.experiments.test_records import make_run

WRONG = (
    None, True, False, 0, -1, 1, 3, 10**12, 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"),
    "", " ", "x", "3", "\ud800", "a\x00b", "../../x", "a" * 10_000, "é|<b>\n`$x_$", [], {}, [1], [[]],
    [None], ["x"], {"a": 1}, [[1, 2, 3]], {"": None}, [{}],
)  # fmt: skip
DEEP = (100, 10_000)


@pytest.fixture(autouse=True)
def _stub(monkeypatch, tmp_path):
    monkeypatch.setitem(agents.ALGORITHMS, "stub", stub.Stub)
    monkeypatch.chdir(tmp_path)


def paths_of(value, at=()):
    """Every place in a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in list(inner):
        yield (*at, key)
        if isinstance(entry, dict | list):
            yield from paths_of(entry, (*at, key))


def mutated(value, rng):
    """A copy with one or two places removed, replaced or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2))):
        places = list(paths_of(value))
        if not places:
            break
        *above, key = rng.choice(places)
        parent = value
        for step in above:
            parent = parent[step]
        kind = rng.random()
        if kind < 0.2:
            del parent[key]
        elif kind < 0.3 and isinstance(parent, dict):
            parent[rng.choice(("", "x", "seed", "gait", "task", "pass_at_1", "best"))] = parent[key]
        elif kind < 0.4:
            other = rng.choice(places)
            entry = value
            for step in other:
                entry = entry[step] if isinstance(entry, dict) or step_fits(entry, step) else None
            parent[key] = copy.deepcopy(entry)
        else:
            parent[key] = copy.deepcopy(rng.choice(WRONG))
    return value


def step_fits(entry, step):
    return isinstance(entry, list) and isinstance(step, int) and step < len(entry)


def text_of(value, rng):
    """The file's bytes; now and then they are damaged as bytes."""
    content = json.dumps(value).encode()
    kind = rng.random()
    if kind < 0.05:
        return content[: rng.randrange(len(content))]
    if kind < 0.1:
        at = rng.randrange(len(content))
        return content[:at] + bytes(rng.randrange(256) for _ in range(3)) + content[at + 1 :]
    if kind < 0.12:
        return rng.choice((b"", b"\xff\xfe", b"\x00" * 9, b"3", b"[]", b"null", b'"x"'))
    if kind < 0.13:
        depth = rng.choice(DEEP)
        return b'{"a": ' * depth + b"1" + b"}" * depth
    return content


GAIT = {"walks": True, "alternation": 0.9, "flight": 0.1, "duty_right": 0.5, "duty_left": 0.5}
TOKENS = {"pass_at_1": 0.5, "pass_at_8": 0.9, "pass_at_1_start": 0.1, "pass_at_8_start": 0.2}
TOKENS |= {"kl_to_reference": 1.0}


@pytest.fixture
def whole(tmp_path):
    """A valid run, with a gait and with token figures, its files as JSON, and its records."""
    folder = make_run(tmp_path / "runs/a")
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"gait": GAIT, "distance_m": 1.0, **TOKENS, "task": "sort"}
    summary |= {"parameters": 10, "tokens_per_second": 5.0, "eval_batches": 4}
    for of_seed in summary["per_seed"]:
        of_seed |= {"gait": GAIT, "distance_m": 1.0, **TOKENS}
    folders.write_json(folder / "summary.json", summary)
    names = ("config.json", "summary.json")
    files = {name: json.loads((folder / name).read_text()) for name in names}
    files["seed_0/metrics.jsonl"] = folders.read_rows(folder / "seed_0/metrics.jsonl")
    return folder, files, json.loads(json.dumps(folders.plain(records.record(folder))))


def write(path, name, value, rng):
    if name.endswith(".jsonl"):
        lines = [json.dumps(row).encode() for row in value]
        if rng.random() < 0.1:
            lines.insert(
                rng.randrange(len(lines) + 1), rng.choice((b"\xff", b"[" * 10**4, b"{", b"[]"))
            )
        path.write_bytes(b"\n".join(lines) + b"\n")
    else:
        path.write_bytes(text_of(value, rng))


def refused(body, path):
    """Whether `body` refused its input, in one line that names the file or its folder."""
    try:
        body()
    except ValueError as error:
        said = str(error)
        assert "\n" not in said
        assert len(said) < 1500
        assert path.name in said or path.parent.name in said or path.parent.parent.name in said, (
            said
        )
        return True
    return False


def readers(folder):
    """All that is computed of a run before anything is drawn."""

    def read_all():
        run = stored.read_run(folder)
        found = records.record(folder)
        results.of_runs("T", label_runs([run.config]), [run.config], [run.summary])
        results.of_suite("T", found, {r["env"]: "x.png" for r in found})
        json.dumps(folders.plain(found), allow_nan=False)

    return (
        read_all,
        lambda: explorer.page(explorer.gather([folder], ["env", "algo"], "eval/return")),
        lambda: sources.read([folder], "train/return"),
    )


@pytest.mark.parametrize("name", ["config.json", "summary.json", "seed_0/metrics.jsonl"])
def test_thousands_of_damaged_runs(whole, name):
    folder, files, _ = whole
    rng, counts = random.Random(name), [0, 0, 0]
    tries = 300
    for number in range(tries):
        write(folder / name, name, mutated(files[name], rng), rng)
        for i, body in enumerate(readers(folder)):
            if i != 1 or number % 10 == 0:  # pages take longer
                counts[i] += refused(body, folder / name)
    assert all(0 < count < tries for count in counts), counts


@pytest.mark.slow
def test_thousands_of_damaged_records(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "fits", lambda env, algo: True)  # builds each learner
    _, _, found = whole
    path = tmp_path / "kept/records.json"
    path.parent.mkdir()
    good = {"title": "T", "records": found}
    rng, count, tries = random.Random(0), 0, 500

    def read_all():
        title, read = records.read(path)
        results.of_suite(title, read, {r["env"]: "x.png" for r in read})
        readme.text(read)

    def gather():
        explorer.page(explorer.gather([path], ["env", "algo"], "eval/return"))

    for _ in range(tries):
        write(path, path.name, mutated(good, rng), rng)
        count += refused(read_all, path)
        if count % 10 == 0:
            refused(gather, path)
    assert 0 < count < tries


def test_damaged_files_through_the_commands(whole, tmp_path, monkeypatch):
    """Nothing is written where a command refuses its input."""
    for figure in ("mean_curves", "quartile_bands", "interval_bands", "profiles", "intervals"):
        monkeypatch.setattr(comparison, figure, lambda *arguments: None)
    folder, files, found = whole
    kept = tmp_path / "kept/records.json"
    kept.parent.mkdir()
    files = {folder / name: content for name, content in files.items()}
    files[kept] = {"title": "T", "records": found}
    rng = random.Random(1)
    good = {path: path.read_bytes() for path in files if path.exists()}
    good[kept] = json.dumps(files[kept]).encode()
    commands = {
        folder: (publish.publish, compare, report.report),
        kept: (publish.publish, compare, report.report),
        folder.parent: (publish.publish, compare),
    }
    for number in range(12):
        for path, content in good.items():
            path.write_bytes(content)
        path = rng.choice(list(files))
        write(path, path.name, mutated(files[path], rng), rng)
        for given, bodies in commands.items():
            for body in bodies:
                out = tmp_path / f"out/{number}{given.name}{body.__name__}.html"
                argv = [str(given), "--out", str(out)]
                if refused(lambda body=body, argv=argv: body(argv), path):
                    assert not out.exists()
        assert not list(tmp_path.rglob(".writing-*"))
