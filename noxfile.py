"""Every check of the project; plain `nox` runs those that are marked with a `*`."""

import os
import pathlib
import shutil
import subprocess
import sys

import nox

nox.needs_version = ">=2025.2.9"
nox.options.reuse_venv = "yes"
# uv installs a backend in seconds, virtualenv's pip in minutes.
nox.options.default_venv_backend = "uv|virtualenv"
# `.ci/run` adds those that take long, the workflows on GitHub all others.
nox.options.sessions = ["tests", "lint"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
BACKENDS = ("jax", "tensorflow", "torch")
each_backend = nox.parametrize("backend", BACKENDS, ids=BACKENDS)

# JAX compiles quickly, and keeps it for later runs and processes beside this one.
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
JAX = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_COMPILATION_CACHE_DIR": str(CACHE / "keras-vivit" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
}
# One module, by older emitters, compiles faster. `lowest` has the default.
FLAGS = ("use_fusion_emitters=false", "parallel_codegen_split_count=1")
QUICKLY = {"jax": {"XLA_FLAGS": " ".join(f"--xla_cpu_{flag}" for flag in FLAGS)}}

# uv does not read where pip looks for packages.
UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
    "find-links": "UV_FIND_LINKS",
}
os.environ.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # As pip chooses.
_pip = subprocess.run(
    [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True
)
for _line in _pip.stdout.splitlines():
    _name, _, _value = _line.partition("=")
    if _variable := UV.get(_name.rpartition(".")[-1]):
        os.environ.setdefault(_variable, _value.strip("'"))

PARALLEL = ("-n", "auto", "--maxprocesses", "4", "--dist")

# What CI installs beside the tests' packages, by hashes.
LOCKED = pathlib.Path(".github/locked")

SCHEMAS = {
    "citation-file-format": "CITATION.cff",
    "dependabot": ".github/dependabot.yml",
    "github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "github-issue-forms": ".github/ISSUE_TEMPLATE/*_*.yml",
    "github-workflows": ".github/workflows/*.yml",
}


def groups(*names):
    return nox.project.dependency_groups(PYPROJECT, *names)


def install(session, *requirements):
    """Installs without compiling: most modules of a backend are never imported."""
    session.install("--no-compile", *requirements)


def run_tests(session, backend, *requirements, **environment):
    """Runs the tests that are not marked `slow`; those that are, after `-- -m slow`."""
    # The backend goes first: nothing else may choose another build of it.
    if "slow" in session.posargs:
        install(session, *groups(backend, "slow"))
        # Without their dependencies: PyTorch, torchvision, tensorflow-text.
        install(session, "--no-deps", "medmnist", "keras-hub", "vit-pytorch")
    else:
        install(session, *groups(f"{backend}-alone", "test"))
    install(session, ".[examples,hf,scenic,search,video,volume]", *requirements)
    # One thread a process: more would wait for each other.
    options = ("--durations", "10", "-m", "not slow", *session.posargs)
    environment |= {"KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1", **JAX}
    session.run("pytest", *PARALLEL, "loadfile", *options, env=environment)


@nox.session
@each_backend
def tests(session, backend):
    """The tests on one backend, with the newest Keras."""
    run_tests(session, backend, **QUICKLY.get(backend, {}))


@nox.session
@each_backend
def lowest(session, backend):
    """The tests on one backend, with the lowest Keras that is admitted."""
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


def install_locked(session, name):
    """Installs what `lock` has written, and nothing else."""
    session.install("--require-hashes", "-r", str(LOCKED / f"{name}.txt"))


@nox.session
def build(session):
    """The wheel and the source distribution, into `dist/`, checked as PyPI would."""
    install_locked(session, "build")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", "--no-isolation")
    session.run("twine", "check", "--strict", *pathlib.Path("dist").iterdir())


@nox.session
def sbom(session):
    """What the package needs, with its extras, as CycloneDX into `sbom.cdx.json`."""
    install_locked(session, "build")
    package = str(LOCKED / "package.txt")
    session.run("cyclonedx-py", "requirements", package, "-o", "sbom.cdx.json")


@nox.session
def audit(session):
    """Known vulnerabilities of what CI installs, and of what the package needs."""
    install_locked(session, "audit")
    for path in sorted(LOCKED.glob("*.txt")):
        session.run("pip-audit", "--disable-pip", "--require-hashes", "-r", str(path))


@nox.session
def lock(session):
    """Writes `.github/locked` anew: the newest versions, with their hashes."""
    session.install("uv")
    compiling = ("uv", "pip", "compile", "--universal", "--python-version", "3.11")
    options = ("--upgrade", "--quiet", "--generate-hashes", "--no-header")
    for name in ("audit", "build", "ci"):
        path = str(LOCKED / f"{name}.txt")
        session.run(*compiling, *options, "--group", name, "-o", path)
    extras = ("--extra=hf", "--extra=scenic", "--extra=video", "--extra=volume")
    path = str(LOCKED / "package.txt")
    session.run(*compiling, *options, *extras, "pyproject.toml", "-o", path)


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
    if not shutil.which("npm"):
        session.error("npm must be installed (https://nodejs.org): the demo needs it.")
    install(session, *groups("docs"), ".[volume]")
    session.run("zensical", "build", "--strict", "--clean")
    torch = {"KERAS_BACKEND": "torch"}
    demo = ("docs/demo/build.py", "--out", "site/demo", "--home", "../")
    session.run("python", *demo, env=torch)
    pages = ("tests/test_site.py", "tests/test_demo.py")
    options = ("--noconftest", *PARALLEL, "load", *session.posargs)
    session.run("pytest", *options, *pages, env=torch)
