"""Makes the notebooks of `notebooks.md` from the scripts in `notebooks/`.

python docs/notebooks.py
"""

from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).with_suffix("")
KERNEL = {"name": "python3", "display_name": "Python 3"}


def notebooks():
    """Returns the names of files in `notebooks/`, and what they hold."""
    return {
        script.with_suffix(".ipynb").name: nbformat.writes(notebook(script)) + "\n"
        for script in sorted(FOLDER.glob("*.py"))
    }


def notebook(script):
    """Turns a script with cells, `# %%`, into a notebook without outputs."""
    notebook = jupytext.read(script)
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"  # Jupytext's are random.
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return notebook


def main():
    for name, text in notebooks().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
