"""What the package is made of, and what importing it does."""

import ast
import importlib.metadata
import inspect
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import keras
import pytest
from helpers import once
from packaging.version import Version

import keras_vivit

ROOT = pathlib.Path(__file__).parents[1]
SOURCE = ROOT / "keras_vivit"
PUBLIC = [getattr(keras_vivit, name) for name in keras_vivit.__all__]

IMPORT = """
import json, os, sys, time
import keras
modules, environment = set(sys.modules), dict(os.environ)
sys.path[:0] = {path!r}
start = time.process_time()  # Other tests may run at the same time.
import {package}
seconds = time.process_time() - start
new = {{name.split(".")[0] for name in set(sys.modules) - modules}}
print(json.dumps({{
    "seconds": seconds,
    "packages": sorted(new - {{{package!r}}} - set(sys.stdlib_module_names)),
    "environment": environment != dict(os.environ),
}}))
"""


def import_afresh(package, *path):
    """What one import adds to `import keras`, measured in a process of its own."""
    script = IMPORT.format(package=package, path=[str(folder) for folder in path])
    command = [sys.executable, "-P", "-c", script]
    # Compiled, as pip leaves a package; the first run of several does it here.
    unset = {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"}
    env = {k: v for k, v in os.environ.items() if k not in unset}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def imports():
    return [import_afresh("keras_vivit") for _ in range(3)]


@once
@pytest.mark.slow
def test_import_brings_in_only_what_keras_does(imports):
    assert imports[0]["packages"] == []
    assert not imports[0]["environment"]


@once
@pytest.mark.slow
def test_import_check_can_fail(tmp_path):
    (tmp_path / "heavy.py").write_text("")
    stub = "import os\nimport heavy\nos.environ['KERAS_BACKEND'] = 'heavy'\n"
    (tmp_path / "stub.py").write_text(stub)
    found = import_afresh("stub", tmp_path)
    assert found["packages"] == ["heavy"]
    assert found["environment"]


@once
@pytest.mark.slow
def test_import_takes_under_50_ms(imports):
    assert statistics.median(run["seconds"] for run in imports) < 0.05


def test_source_imports_keras_numpy_and_the_standard_library():
    everywhere = {"keras", "keras_vivit", "numpy", *sys.stdlib_module_names}
    for path in SOURCE.rglob("*.py"):
        # These are named after the one backend that they are loaded for.
        own = {path.stem} if path.parent.name in ("backends", "fast") else set()
        allowed = everywhere | own
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import():
                    names = [alias.name for alias in node.names]
                case ast.ImportFrom(module=str(module), level=0):
                    names = [module]
                case _:
                    continue
            others = {name.split(".")[0] for name in names} - allowed
            assert not others, f"{path.name}:{node.lineno} imports {others}"


def test_all_is_sorted_and_complete():
    public = {
        name
        for name, value in vars(keras_vivit).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    public |= {"augmentation", "config", "data", "initializers", "optimizers"}
    assert keras_vivit.__all__ == sorted(public | {"visualization"})


@pytest.mark.parametrize("value", PUBLIC, ids=keras_vivit.__all__)
def test_public_name_has_a_docstring(value):
    assert value.__doc__


@pytest.mark.parametrize(
    "value",
    [value for value in PUBLIC if inspect.isclass(value)],
    ids=lambda value: value.__name__,
)
def test_public_class_is_registered(value):
    name = f"keras_vivit>{value.__name__}"
    assert keras.saving.get_registered_name(value) == name
    assert keras.saving.get_registered_object(name) is value


def test_tests_run_on_the_installed_package():
    distribution = importlib.metadata.distribution("keras-vivit")
    url = json.loads(distribution.read_text("direct_url.json") or "{}")
    if url.get("dir_info", {}).get("editable"):
        pytest.skip("the package is installed in editable mode")
    installed = pathlib.Path(distribution.locate_file("keras_vivit/__init__.py"))
    assert installed.samefile(keras_vivit.__file__)


def test_version_is_in_one_place():
    definition = re.compile(r"^_*version_*\s*[=:]", re.MULTILINE)
    files = [*SOURCE.rglob("*.py"), ROOT / "pyproject.toml", ROOT / "CITATION.cff"]
    places = [path.name for path in files if definition.search(path.read_text())]
    assert places == ["__init__.py"]
    assert importlib.metadata.version("keras-vivit") == keras_vivit.__version__


def test_version_is_the_changelogs_newest_or_on_the_way_to_the_next():
    heading = re.compile(r"^## \[(\d.*)\] - \d{4}-\d\d-\d\d$", re.MULTILINE)
    released = Version(heading.search((ROOT / "CHANGELOG.md").read_text())[1])
    version = Version(keras_vivit.__version__)
    assert version == released or (version.is_devrelease and version > released)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    pytest.importorskip("build", reason="building needs build and hatchling")
    pytest.importorskip("hatchling", reason="building needs build and hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder]
    subprocess.run([*command, ROOT], check=True, capture_output=True)
    return folder


def files_of(folder):
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(distributions):
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"keras_vivit-{keras_vivit.__version__}.dist-info"
    metadata = {
        f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")
    }
    assert names == files_of("keras_vivit") | metadata
    others = {name for name in names - metadata if not name.endswith(".py")}
    names = ("vivit_organmnist3d", "vivit_organmnist3d_v2")
    weights = {f"keras_vivit/weights/{name}.npz" for name in names}
    assert others == {"keras_vivit/py.typed", *weights}


@pytest.mark.slow
def test_description_leads_to_no_file_that_pypi_lacks(distributions):
    (wheel,) = distributions.glob("*.whl")
    info = f"keras_vivit-{keras_vivit.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"{info}/METADATA").decode()
    assert set(re.findall(r"\]\((\w*)", text)) == {"https"}


@pytest.mark.slow
def test_sdist_holds_package_tests_and_examples(distributions):
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    package = files_of("keras_vivit")
    assert package <= names
    assert names - package - files_of("tests") - files_of("examples") == {
        ".gitignore",
        "CHANGELOG.md",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "LICENSE",
        "PKG-INFO",
        "README.md",
        "SECURITY.md",
        "noxfile.py",
        "pyproject.toml",
    }


def test_dependencies_are_keras_and_numpy():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.match(r"[\w-]+", item)[0] for item in project["dependencies"]]
    assert names == ["keras", "numpy"]
