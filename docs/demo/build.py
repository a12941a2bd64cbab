"""Builds the page that runs a volume classifier in the browser, as a static folder.

    KERAS_BACKEND=torch python docs/demo/build.py --out DIR
    KERAS_BACKEND=torch python docs/demo/build.py --preset NAME_OR_FOLDER --out DIR

Needs PyTorch with `pip install onnxscript`, and npm, which fetches the packages of
`package-lock.json`. Any static host serves the folder; `python -m http.server -d DIR`
shows it.
"""

import argparse
import base64
import hashlib
import html
import json
import re
import shutil
import string
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
sys.path[:0] = [str(EXAMPLES), str(EXAMPLES / "organmnist3d")]

ORGANS = "vivit_organmnist3d_v2"
CREDIT = "The samples are test volumes of OrganMNIST3D (MedMNIST v2, CC BY 4.0)."
# By package: what the page loads of it; the first file is what its name imports.
PACKAGES = {
    "dicom-parser": ("dist/dicomParser.min.js",),
    "fflate": ("esm/browser.js",),
    "nifti-reader-js": tuple(
        f"dist/{name}.js"
        for name in ("nifti", "nifti1", "nifti2", "nifti-extension", "utilities")
    ),
    "onnxruntime-web": (
        "dist/ort.wasm.bundle.min.mjs",
        "dist/ort-wasm-simd-threaded.wasm",
    ),
}
BODY = ("RL", "AP", "SI")  # The directions of each axis of the body.
VIEWS = {
    "SI": "Axial",
    "AP": "Coronal",
    "RL": "Sagittal",
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--preset", default=ORGANS, help="name or folder of a classifier of volumes")
    add("--out", type=Path, required=True, help="folder that gets the page")
    add("--samples", help="npz file with `volumes` and `labels`, for three buttons")
    add("--orientation", help="of the training volumes, such as RAS (default)")
    add("--home", help="address of a link back")
    options = parser.parse_args(arguments)
    try:
        build(options)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        sys.exit(f"error: {error}")


def build(options):
    import export_and_serve

    from keras_vivit import visualization
    from keras_vivit.data.volume import check_orientation

    organs = options.preset == ORGANS
    orientation = options.orientation or ("LPS" if organs else "RAS")
    check_orientation(orientation)
    model = load_classifier(options.preset)
    names = model.class_names or [f"class {i}" for i in range(model.num_classes)]
    out = options.out
    copy_packages(out / "vendor")
    volumes, labels = load_samples(options.samples, organs)
    samples = write_samples(model, names, volumes, labels, out / "samples")
    explained = visualization.with_rollout(model)
    export_and_serve.save_onnx(explained, out / "model.onnx")
    for file in (*HERE.glob("*.js"), HERE / "style.css"):
        shutil.copy(file, out)
    text = page(options, model.backbone.video_shape[:3], orientation, names, samples)
    (out / "index.html").write_text(text, encoding="utf-8")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.1f} MB, {len(samples)} samples")


def load_classifier(source):
    import keras_vivit

    model = keras_vivit.ViViTClassifier.from_preset(source)
    if isinstance(model.num_classes, dict) or model.backbone.video_shape[3] != 1:
        raise ValueError(
            "`--preset` must be a classifier of volumes with one channel and one head. "
            f"Received: {source} with video_shape={model.backbone.video_shape} and "
            f"num_classes={model.num_classes}"
        )
    if model.classifier_activation.__name__ != "linear":
        return model
    return keras_vivit.ViViTClassifier.from_preset(
        source, classifier_activation="softmax"
    )


# === Samples ===


def load_samples(path, organs):
    """Returns volumes `(n, depth, height, width, 1)` and labels; none without data."""
    if path:
        with np.load(path) as file:
            if (
                not {"volumes", "labels"} <= set(file)
                or file["volumes"].dtype != "uint8"
            ):
                raise ValueError(
                    "`--samples` must hold the arrays `volumes`, uint8, and `labels`. "
                    f"Received: {path} with {', '.join(file)}"
                )
            volumes, labels = file["volumes"], file["labels"]
        return volumes.reshape(*volumes.shape[:4], 1), labels.reshape(-1)
    if organs:
        import data

        dataset = data.load()
        if dataset.source != "synthetic":
            return dataset.test
    return (), ()


def write_samples(model, names, volumes, labels, folder):
    """Returns triples of a row, the class, and whether the model is mistaken."""
    if not len(volumes):
        return []
    folder.mkdir(exist_ok=True)
    predicted = model.predict(volumes, verbose=0).argmax(axis=-1)
    rows = choose(names, labels, predicted)
    for row in rows:
        np.save(folder / f"{row}.npy", volumes[row])
    return [(row, names[labels[row]], predicted[row] != labels[row]) for row in rows]


def groups(names):
    """Returns the classes' indices, those of the two sides of a pair together."""
    found = {}
    for index, name in enumerate(names):
        found.setdefault(re.sub("left|right", "", name.lower()), []).append(index)
    return list(found.values())


def choose(names, labels, predicted):
    """Returns rows of a right, a left, and a mistake of them, where there are such."""
    pair = next((group for group in groups(names) if len(group) == 2), [0, 1])
    right = predicted == labels
    wanted = [*((labels == label) & right for label in pair)]
    wanted.append(~right & np.isin(labels, pair) if len(wanted) else ~right)
    return [int(np.argmax(rows)) for rows in wanted if rows.any()]


# === Files ===


def copy_packages(target):
    """Fetches what `package-lock.json` pins, and keeps what the page loads."""
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError("npm must be installed (Node.js, https://nodejs.org).")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder)
        command = (npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for package, files in PACKAGES.items():
            source = Path(folder, "node_modules", package)
            (target / package).mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copy(source / file, target / package)
            if (source / "LICENSE").exists():  # Else it is in the first file.
                shutil.copy(source / "LICENSE", target / package / "LICENSE.txt")


def page(options, shape, orientation, names, samples):
    modules = {
        package: f"./vendor/{package}/{Path(files[0]).name}"
        for package, files in PACKAGES.items()
    }
    imports = json.dumps({"imports": modules})
    digest = base64.b64encode(hashlib.sha256(imports.encode()).digest()).decode()
    name = html.escape(Path(options.preset).name)
    home = html.escape(options.home or "")
    organs = options.preset == ORGANS and samples and not options.samples
    template = string.Template((HERE / "index.html").read_text(encoding="utf-8"))
    return template.substitute(
        name=name,
        size=" x ".join(map(str, shape)),
        imports=imports,
        hash=f"sha256-{digest}",
        home=f'<a href="{home}">Documentation of keras-vivit</a>' if home else "",
        orientation=orientation,
        credit=CREDIT if organs else "",
        samples="".join(map(sample_button, samples)),
        views="".join(view(*item, orientation) for item in VIEWS.items()),
        bars="".join(bars(group, names) for group in groups(names)),
        settings=json.dumps({"shape": shape, "orientation": orientation}),
    )


def sample_button(sample):
    row, name, wrong = sample
    name, note = html.escape(name), " (a mistake)" if wrong else ""
    return (
        f'\n<button data-file="samples/{row}.npy" data-label="{name}">'
        f"{name}{note}</button>"
    )


def view(letters, name, orientation):
    axes = [next(i for i in range(3) if orientation[i] in pair) for pair in BODY]
    axis = axes[BODY.index(letters)]
    x, y = (other for other in axes if other != axis)
    # Pictures have the patient's right on the left, the front and the head on top.
    back = [orientation[a] in "RAS" for a in (x, y)]
    axes = json.dumps({"axis": axis, "x": x, "y": y, "back": back})
    sliders = "".join(
        f'<label>{word} <input type="range" min="{least}" aria-label="{word}, {name}">'
        "</label>"
        for word, least in (("slice", 0), ("box from", 0), ("box to", 1))
    )
    return f"""
<figure data-view='{axes}'><figcaption>{name}</figcaption>
<div class="picture"><canvas role="img" aria-label="{name}: slice"></canvas>
<div class="box"><canvas role="img" aria-label="{name}: rollout"></canvas></div></div>
{sliders}
<div class="input"><canvas role="img" aria-label="{name}: input"></canvas> what the
model gets</div>
</figure>"""


def bars(group, names):
    items = "".join(
        f'<li data-class="{i}"><span>{html.escape(names[i])}</span><span></span></li>'
        for i in group
    )
    return f"\n<ul>{items}</ul>"


if __name__ == "__main__":
    main()
