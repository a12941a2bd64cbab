"""Code in README, docs and docstrings runs; README's commands are those of CI."""

import doctest
import operator
import pathlib
import re

import keras
import numpy as np
import pytest

import keras_vivit

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/README.md")]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=str(page.relative_to(ROOT)),
            marks=[] if page == README else pytest.mark.slow,
        )
        for page in PAGES
    ],
)
def test_code_blocks_run(page, tmp_path, monkeypatch):
    text = page.read_text()
    assert set(re.findall(r"^ *```(py.*)$", text, re.MULTILINE)) <= {"python"}
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        # Tracebacks show the line of the page.
        lines_before = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(lines_before + block[1], page, "exec"), namespace)


class ShapeChecker(doctest.OutputChecker):
    """Takes each backend's way to print a shape for NumPy's."""

    def check_output(self, want, got, optionflags):
        shape = re.compile(r"(?:TensorShape|torch\.Size)\(\[([^]]*)\]\)")
        got = shape.sub(lambda match: repr(eval(f"({match[1]},)")), got)
        return super().check_output(want, got, optionflags)


NAMES = [
    *keras_vivit.__all__,
    *(f"data.{name}" for name in keras_vivit.data.__all__),
    *(f"visualization.{name}" for name in keras_vivit.visualization.__all__),
]


@pytest.mark.parametrize("name", NAMES)
def test_docstring_example_runs(name):
    modules = {"keras": keras, "keras_vivit": keras_vivit, "np": np}
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(ShapeChecker(), verbose=False, optionflags=flags)
    finder = doctest.DocTestFinder(exclude_empty=True)
    for test in finder.find(
        operator.attrgetter(name)(keras_vivit), name, globs=modules
    ):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_readme_has_the_command_that_ci_runs():
    script = ROOT / ".ci/run"
    if not script.exists():
        pytest.skip("a source distribution has no .ci/run")
    (command,) = re.findall(r"^python3 .*$", script.read_text(), re.MULTILINE)
    assert command in README.read_text().splitlines()


def test_readme_has_the_command_that_trains_the_recipe():
    command = r"^python3 -m venv .* examples/organmnist3d/train\.py$"
    assert re.search(command, README.read_text(), re.MULTILINE)


def test_readme_has_the_results_of_the_recipe():
    card = ROOT / "docs" / "organmnist3d.md"
    if not card.exists():
        pytest.skip("a source distribution has no docs")
    recipe = (ROOT / "examples" / "organmnist3d" / "README.md").read_text()
    accuracy_and_auc = re.compile(r"(\.\d{3} ± \.\d{3}) \| (\.\d{3} ± \.\d{3})")
    ours = accuracy_and_auc.findall(README.read_text())
    assert len(ours) == 3
    shown = card.read_text().replace("&nbsp;", " ")
    assert accuracy_and_auc.findall(shown) == ours
    assert all(f"| {number} |" in recipe for row in ours for number in row)
