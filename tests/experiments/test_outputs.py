import pytest

from experiments.console import outputs
from experiments.run import names

OURS = {"README.md": lambda text: text.startswith("# Ours")}


def page(folder, text="# Ours\n![x](a.png)"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(text)
    return folder


def test_all_or_nothing(tmp_path):
    out = page(tmp_path / "out")
    for name in ("a.png", "a.svg"):
        (out / name).write_text("old")
    (out / "b.png").write_text("a bystander's")

    def go(*made):
        with outputs.staged(out, OURS) as fresh:
            for name in made:
                (fresh / name).write_text("new")

    with pytest.raises(ValueError, match=r"b\.png was not written by this command"):
        go("a.png", "b.png", "README.md")
    assert (out / "a.png").read_text() == "old"
    go("a.png", "a.svg", "README.md")
    assert {p.name: p.read_text()[:3] for p in out.iterdir()} == {
        "README.md": "new", "a.png": "new", "a.svg": "new", "b.png": "a b",
    }  # fmt: skip


def test_what_breaks_midway_changes_nothing(tmp_path):
    def go():
        with outputs.staged(tmp_path / "x/y", OURS) as fresh:
            (fresh / "README.md").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "theirs", "folder", "nowhere"])
def test_no_place_for_a_page(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "theirs":
        page(out, "# Mine")
    else:
        out.mkdir()
        if kind == "folder":
            (out / "README.md").mkdir()
        else:
            (out / "README.md").symlink_to(tmp_path / "gone")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="out"), outputs.staged(out, OURS):
        pytest.fail("written")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_write_leaves_nobody_elses_file(tmp_path):
    (tmp_path / "a.tmp").write_text("a bystander's")
    outputs.write(tmp_path / "a.json", "1")
    outputs.write(tmp_path / "a.json", "2")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "a.json": "2", "a.tmp": "a bystander's",
    }  # fmt: skip


def test_names_that_end_alike():
    envs = ["CartPole-v1", "gym:CartPole-v1", "/x/a.py:Robot", "/x/b.py:Robot", "/y/b.py:Robot"]
    assert list(names.short_names([*envs, "gym:m:X-v0"]).values()) == [
        "CartPole-v1", "gym:CartPole-v1", "a.py:Robot", "x/b.py:Robot", "y/b.py:Robot", "X-v0",
    ]  # fmt: skip


def test_files_of_names_are_plain_and_never_alike():
    files = outputs.file_names(["A", "a", "../x", "x", "gym:X-v0", "日本", "", "n" * 300, "a\0b"])
    assert len({name.casefold() for name in files.values()}) == len(files)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzAX-02345678") for name in files.values())
    assert max(map(len, files.values())) <= 110
