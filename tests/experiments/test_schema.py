import json

import pytest

from experiments.run import schema
from experiments.run.schema import NAME, SETTINGS, Flag, ListOf, Maybe, Number, Row, Table, Whole

KIND = Table(
    {"env": NAME, "seeds": Whole(1), "config": SETTINGS},
    {
        "points": ListOf(Row((Whole(0), Maybe(Number())))),
        "gait": Maybe(Table({"walks": Flag()})),
    },
)
GOOD = {"env": "X", "seeds": 2, "config": {"a": [1, {"b": None}]}, "other": "kept"}


@pytest.mark.parametrize(
    "change",
    [{}, {"points": [[0, 1.5], [1, None]]}, {"gait": None}, {"gait": {"walks": True, "more": 1}}],
)
def test_what_fits_is_returned_as_it_is(tmp_path, change):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(GOOD | change))
    assert schema.read(path, KIND) == GOOD | change


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "a.json cannot be read: "),
        (b"\xff", "a.json cannot be read: it is not text in UTF-8"),
        (b"[" * 100_000, "a.json cannot be read: it is nested too deeply"),
        (b"[" * 100 + b"]" * 100, "a.json cannot be read: it is nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "a.json cannot be read: "),
        (b'{"a": "\\ud800"}', "a.json cannot be read: it holds half of a character"),
        (b"[]", r"a.json must be a table, got \[\]"),
        (b'{"env": 1}', "a.json lacks config, seeds"),
        ({"env": " "}, "a.json: env must be a name, got ' '"),
        ({"env": None}, "a.json: env must be a name, got None"),
        ({"seeds": True}, "a.json: seeds must be a whole number of at least 1, got True"),
        ({"seeds": 2.0}, "a.json: seeds must be a whole number"),
        ({"seeds": 0}, "a.json: seeds must be a whole number of at least 1, got 0"),
        ({"seeds": 2**63}, "a.json: seeds is too large: at most 9223372036854775807"),
        ({"config": "abc"}, "a.json: config must be a table of settings"),
        ({"points": {"0": 1}}, "a.json: points must be a list, got"),
        ({"points": [[0, 1.0], [1]]}, r"a.json: points\[1\] must be a list of 2, got \[1\]"),
        ({"points": [[0, "1"]]}, r"a.json: points\[0\]\[1\] must be a finite number"),
        (b'{"env": "X", "seeds": 1, "config": {}, "points": [[0, NaN]]}', r"points\[0\]\[1\]"),
        (b'{"env": "X", "seeds": 1, "config": {}, "points": [[0, 1e999]]}', r"points\[0\]\[1\]"),
        ({"points": [[0, 10**400]]}, r"points\[0\]\[1\] must be a finite number"),
        ({"gait": {}}, "a.json: gait lacks walks"),
        ({"gait": {"walks": 1}}, "a.json: gait.walks must be true or false, got 1"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_file_and_field(tmp_path, content, message):
    path = tmp_path / "a.json"
    text = content if isinstance(content, bytes) else json.dumps(GOOD | content).encode()
    path.write_bytes(text)
    with pytest.raises(ValueError, match=message) as told:
        schema.read(path, KIND)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 300 + len(str(tmp_path))


def test_a_file_that_is_missing_is_the_callers_to_explain(tmp_path):
    with pytest.raises(FileNotFoundError):
        schema.read(tmp_path / "a.json", KIND)
    with pytest.raises(ValueError, match="cannot be read"):
        schema.read(tmp_path, KIND)
