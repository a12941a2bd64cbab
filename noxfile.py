"""Every check of the project; `nox -l` lists them, plain `nox` runs them all."""

import tempfile

import nox

nox.needs_version = ">=2025.2.9"
nox.options.reuse_venv = "yes"

PYPROJECT = nox.project.load_toml("pyproject.toml")
BACKENDS = ("jax", "tensorflow", "torch")


def run_tests(session, backend, *requirements):
    """Runs pytest on an installed wheel, in an environment with one backend."""
    groups = nox.project.dependency_groups(PYPROJECT, backend, "test")
    # The backend goes first: nothing else may choose another build of it.
    session.install(*groups)
    # Without their dependencies: PyTorch, torchvision, tensorflow-text.
    session.install("--no-deps", "medmnist", "keras-hub", "vit-pytorch")
    session.install(".[examples,hf,scenic,search]", *requirements)
    # Compiling keeps one core busy: files go to several processes.
    parallel = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile")
    environment = {"KERAS_BACKEND": backend}
    session.run("pytest", *parallel, *session.posargs, env=environment)


@nox.session
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def tests(session, backend):
    """The test suite on one backend, with the newest Keras."""
    run_tests(session, backend)


@nox.session
def lowest(session):
    """The test suite on PyTorch, with the lowest Keras that the package admits."""
    (keras,) = (d for d in PYPROJECT["project"]["dependencies"] if "keras" in d)
    run_tests(session, "torch", keras.replace(">=", "=="))


@nox.session
def lint(session):
    """Style, formatting and types: ruff and mypy."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"), "numpy")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")


@nox.session
def build(session):
    """The wheel and the source distribution, checked as PyPI would."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "build"))
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "build", "--outdir", folder)
        session.run("twine", "check", "--strict", f"{folder}/*")


@nox.session
def docs(session):
    """The documentation site, built strictly, into `site/`, and seen in a browser."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "docs"))
    session.run("zensical", "build", "--strict", "--clean")
    session.run("pytest", "--noconftest", "tests/test_site.py")
