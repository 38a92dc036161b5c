"""Small reproducible studies of what the algorithms' pages explain: `python -m experiments.studies NAME`.

A study is a module of four: TITLE, `run(quick, say)` to the plotted numbers, `draw(numbers, path)`, and
`words(numbers)`, a paragraph in Markdown. What is drawn and said comes from the numbers alone.
"""
