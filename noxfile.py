"""Every check of the project; plain `nox` runs those that are marked with a `*`."""

import pathlib
import shutil

import nox

nox.needs_version = ">=2025.2.9"
nox.options.reuse_venv = "yes"
# The others take long or download much: they are left to the workflows on GitHub.
nox.options.sessions = [
    "tests",
    "lowest(torch)",
    "lint",
    "build",
    "installed(jax)",
    "docs",
]

PYPROJECT = nox.project.load_toml("pyproject.toml")
BACKENDS = ("jax", "tensorflow", "torch")
each_backend = nox.parametrize("backend", BACKENDS, ids=BACKENDS)

SCHEMAS = {
    "citation-file-format": "CITATION.cff",
    "dependabot": ".github/dependabot.yml",
    "github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "github-issue-forms": ".github/ISSUE_TEMPLATE/*_*.yml",
    "github-workflows": ".github/workflows/*.yml",
}


def groups(*names):
    return nox.project.dependency_groups(PYPROJECT, *names)


def run_tests(session, backend, *requirements):
    """Runs pytest on an installed wheel, in an environment with one backend."""
    # The backend goes first: nothing else may choose another build of it.
    session.install(*groups(backend, "test"))
    # Without their dependencies: PyTorch, torchvision, tensorflow-text.
    session.install("--no-deps", "medmnist", "keras-hub", "vit-pytorch")
    session.install(".[examples,hf,scenic,search,video,volume]", *requirements)
    # Compiling keeps one core busy: files go to several processes.
    parallel = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile")
    environment = {"KERAS_BACKEND": backend}
    session.run("pytest", *parallel, *session.posargs, env=environment)


@nox.session
@each_backend
def tests(session, backend):
    """The test suite on one backend, with the newest Keras."""
    run_tests(session, backend)


@nox.session
@each_backend
def lowest(session, backend):
    """The test suite on one backend, with the lowest Keras that is admitted."""
    (keras,) = (d for d in PYPROJECT["project"]["dependencies"] if "keras" in d)
    run_tests(session, backend, keras.replace(">=", "=="))


@nox.session
def lint(session):
    """Style, formatting, types, and the files for GitHub; pre-commit runs it, too."""
    session.install(*groups("lint"), "numpy")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("zizmor", "--offline", "--pedantic", "--no-progress", ".github")
    for schema, files in SCHEMAS.items():
        check = ("check-jsonschema", "--builtin-schema", f"vendor.{schema}")
        paths = sorted(map(str, pathlib.Path().glob(files)))
        session.run(*check, "--default-filetype", "yaml", *paths)


@nox.session
def build(session):
    """The wheel and the source distribution, into `dist/`, checked as PyPI would."""
    session.install(*groups("build"))
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", *pathlib.Path("dist").iterdir())


@nox.session(reuse_venv=False, requires=["build"])
@each_backend
def installed(session, backend):
    """The wheel at work in an empty environment, with the extra of one backend."""
    if backend == "torch":  # Without CUDA, where there is such a build.
        session.install(*groups("torch-alone"))
    (wheel,) = pathlib.Path("dist").glob("*.whl")
    session.install(f"{wheel}[{backend}]")
    environment = {"KERAS_BACKEND": backend}
    session.run("python", "-P", "-m", "keras_vivit", env=environment)
    session.run("python", "tests/installed.py", env=environment)


@nox.session
def docs(session):
    """The documentation site, built strictly, into `site/`, and seen in a browser."""
    session.install(*groups("docs"))
    session.run("zensical", "build", "--strict", "--clean")
    session.run("pytest", "--noconftest", "tests/test_site.py")
