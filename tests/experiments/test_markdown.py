import pytest

from experiments.pages import markdown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ppo, learning_rate 0.2 (n=3)", "ppo, learning_rate 0.2 (n=3)"),
        ("pass@1 gym:CartPole-v1 -3.5 ± 1", "pass@1 gym:CartPole-v1 -3.5 ± 1"),
        ("a|b", r"a\|b"),
        ("a\n\n# b", "a # b"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("[x](y) ![z](q)", r"\[x\](y) !\[z\](q)"),
        ("https://evil.example www.evil.example", r"https\://evil.example www\.evil.example"),
        ("me@evil.example", r"me\@evil.example"),
        ("*a* _b_ __c__ d_e ~~f~~ $g$ `h`", r"\*a\* \_b\_ \_\_c\_\_ d_e \~\~f\~\~ \$g\$ \`h\`"),
        ("\\", r"\\"),
    ],
)
def test_a_name_stays_a_name(text, expected):
    assert markdown.inert(text) == expected


def test_lines_that_begin_like_markup():
    assert markdown.item("# big") == "- \\# big"
    assert markdown.item("1. first") == "- \\1. first" or markdown.item("1. first").startswith("- ")
    assert markdown.item("plain") == "- plain"


def test_code_cannot_leave_its_block():
    fence, *lines, end = markdown.code(["a", "``` b\n````\n# c"])
    assert fence == end == "`````"
    assert lines == ["a", "``` b ```` # c"]
    assert markdown.code(["a"]) == ["```", "a", "```"]


def test_a_table_keeps_its_columns():
    assert markdown.table(["a", "b|"], [[1, "x|y"]]) == [
        r"| a | b\| |",
        "|---|---|",
        r"| 1 | x\|y |",
    ]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_cell_is_no_formula(text):
    assert markdown.csv_cell(text) == f"'{text}"
    assert markdown.csv_cell(f"a{text}") == f"a{text}"
