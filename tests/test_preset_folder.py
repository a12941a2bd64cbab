"""Folders of `save_to_preset`: the whole model, and nothing that runs."""

import json
import os
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
from helpers import flat, normal, randomize, some_layers_stay
from local_hub import hub  # noqa: F401

import keras_vivit as kv
from keras_vivit.blocks import VARIANTS

VIDEO_SHAPE = (4, 8, 8, 1)
SIZES = {
    "tubelet_size": (2, 4, 4),
    "embed_dim": 12,
    "num_layers": 1,
    "num_temporal_layers": 1,
    "num_heads": 2,
    "mlp_dim": 16,
}
MODELS = {
    **{variant: {"variant": variant} for variant in VARIANTS},
    "token": {"pooling": "token"},
    "two tokens": {"variant": "factorized_encoder", "pooling": "token"},
    "heads": {"num_classes": {"noun": 2, "verb": 3}, "classifier_activation": None},
    "factorized": {"position_kind": "factorized", "padding": "same"},
    "sequence": {"position_kind": "sequence", "pooling": "first"},
    "norms": {"final_norm": False, "head_norm_epsilon": 1e-5, "activation": "relu"},
    "pixels": {"rescaling": ([0.5], [-1]), "strides": (1, 2, 2)},
    "names": {"class_names": ["a", "b", "c"], "dtype": "mixed_bfloat16", "seed": 3},
}
VIDEO = normal(2, *VIDEO_SHAPE)


def make(model=kv.ViViTClassifier, **changes):
    arguments = {**SIZES, **changes}
    if model is kv.ViViTClassifier:
        arguments.setdefault("num_classes", 3)
    made = model(VIDEO_SHAPE, **arguments)
    randomize(made)
    return made


def assert_same(model, other, video=VIDEO):
    for a, b in zip(flat(model(video)), flat(other(video)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    make().save_to_preset(path)
    return path


# === There and back ===


@pytest.mark.parametrize("name", MODELS)
def test_classifier_comes_back(name, tmp_path):
    model = make(**MODELS[name])
    model.save_to_preset(tmp_path / "model")
    again = kv.ViViTClassifier.from_preset(tmp_path / "model")
    assert_same(model, again)
    config = json.loads(json.dumps(model.get_config()))
    assert json.loads(json.dumps(again.get_config())) == config
    backbone = kv.ViViTBackbone.from_preset(str(tmp_path / "model"))
    assert type(backbone) is kv.ViViTBackbone
    assert_same(model.backbone, backbone)


@pytest.mark.parametrize("name", [n for n in MODELS if n not in ("heads", "names")])
def test_backbone_comes_back_and_gets_a_head(name, tmp_path):
    changes = {**MODELS[name]}
    changes.pop("head_norm_epsilon", None)
    model = make(kv.ViViTBackbone, **changes)
    model.save_to_preset(tmp_path / "model")
    assert_same(model, kv.ViViTBackbone.from_preset(tmp_path / "model"))
    classifier = kv.ViViTClassifier.from_preset(tmp_path / "model", num_classes=2)
    assert_same(model, classifier.backbone)
    with pytest.raises(ValueError, match="`num_classes` must be given"):
        kv.ViViTClassifier.from_preset(tmp_path / "model")


@pytest.mark.slow
@some_layers_stay
@pytest.mark.parametrize("lora", [False, True])
def test_quantized_models_and_adapters_come_back(lora, tmp_path):
    model = make()
    if lora:
        model.enable_lora(2)
        randomize(model, seed=2)
    else:
        model.quantize("int8")
    model.save_to_preset(tmp_path / "model")
    again = kv.ViViTClassifier.from_preset(tmp_path / "model")
    assert not any("lora" in w.path for w in again.weights)
    assert any(w.dtype == "int8" for w in again.weights) != lora
    np.testing.assert_allclose(flat(again(VIDEO)), flat(model(VIDEO)), atol=1e-5)


def test_optimizer_stays_at_home(tmp_path):
    model = make()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(VIDEO, np.array([0, 1]), verbose=0)
    model.save_to_preset(tmp_path / "model")
    with h5py.File(tmp_path / "model" / "model.weights.h5") as file:
        assert "optimizer" not in file
    model.fit(VIDEO, np.array([0, 1]), verbose=0)
    assert int(model.optimizer.iterations) == 2


def test_frozen_layers_stay_frozen(tmp_path):
    model = make()
    model.backbone.trainable = False
    model.save_to_preset(tmp_path / "model")
    again = kv.ViViTClassifier.from_preset(tmp_path / "model")
    assert len(again.trainable_weights) == 2


def test_subclasses_load_what_they_are_made_of(tmp_path):
    class Mine(kv.ViViTClassifier):
        pass

    model = make()
    model.save_to_preset(tmp_path / "model")
    mine = Mine.from_preset(tmp_path / "model")
    assert type(mine) is Mine
    assert_same(model, mine)


# === Other arguments ===


@pytest.mark.parametrize("name", ["token", "factorized_encoder", "factorized"])
def test_other_grid_resamples_the_tables(name, tmp_path):
    model = make(**MODELS[name])
    model.save_to_preset(tmp_path / "model")
    long = kv.ViViTClassifier.from_preset(
        tmp_path / "model", video_shape=(6, 8, 12, 1), classifier_activation=None
    )
    for ours, saved in zip(long.weights, model.weights, strict=True):
        expected = flat(saved)[0]
        if "table" in ours.path:
            expected = kv.resize_position_table(expected, ours.shape[:-1])
        np.testing.assert_allclose(flat(ours)[0], expected, atol=1e-6)


def test_other_classes_give_a_new_head(folder):
    with pytest.warns(UserWarning, match="gives way to a new one"):
        model = kv.ViViTClassifier.from_preset(folder, num_classes=5)
    assert not flat(model.get_layer("head").kernel)[0].any()
    split = kv.ViViTClassifier.from_preset(folder, num_classes={"a": 1, "b": 2})
    saved = kv.ViViTClassifier.from_preset(folder)
    columns = [flat(split.get_layer(f"{n}_head").kernel)[0] for n in "ab"]
    expected = flat(saved.get_layer("head").kernel)[0]
    np.testing.assert_array_equal(np.concatenate(columns, -1), expected)


@pytest.mark.slow
@some_layers_stay
def test_quantized_models_take_other_arguments(tmp_path):
    model = make()
    model.quantize("int8")
    model.save_to_preset(tmp_path / "model")
    again = kv.ViViTClassifier.from_preset(tmp_path / "model", dropout_rate=0.1)
    assert again.backbone.dropout_rate == 0.1
    np.testing.assert_allclose(flat(again(VIDEO)), flat(model(VIDEO)), atol=1e-6)


# === Files ===


def test_files_have_kerashubs_names(tmp_path):
    sampling = {"stride": 2, "rule": "scenic", "fps": 30, "size": 256}
    model = make()
    model.save_to_preset(tmp_path / "model", sampling=sampling)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        *("config.json", "model.weights.h5", "metadata.json", "README.md")
    }
    metadata = json.loads((tmp_path / "model" / "metadata.json").read_text())
    assert metadata["keras_version"] == keras.__version__
    assert metadata["keras_vivit_version"] == kv.__version__
    assert metadata["parameter_count"] == model.count_params()
    assert metadata["sampling"] == sampling
    for changes in ({}, {"dropout_rate": 0.1}):
        for cls in (kv.ViViTClassifier, kv.ViViTBackbone):
            again = cls.from_preset(tmp_path / "model", **changes)
            assert again.sampling == sampling
    again.save_to_preset(tmp_path / "backbone")
    assert kv.ViViTBackbone.from_preset(tmp_path / "backbone").sampling == sampling
    assert model.sampling is None


def test_a_model_takes_the_place_of_an_earlier_one(folder):
    model = make(num_classes=2)
    model.save_to_preset(folder)
    assert_same(model, kv.ViViTClassifier.from_preset(folder))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_other_files_are_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="`directory` must be new, empty"):
        make().save_to_preset(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("existing", [False, True])
def test_folder_appears_whole_or_not_at_all(existing, tmp_path, monkeypatch):
    path, old, new = tmp_path / "model", make(), make(num_classes=2)
    if existing:
        old.save_to_preset(path)

    def fail(self, filepath):
        raise OSError("the disk is full")

    monkeypatch.setattr(kv.ViViTClassifier, "save_weights", fail)
    with pytest.raises(OSError, match="the disk is full"):
        new.save_to_preset(path)
    assert [p.name for p in tmp_path.iterdir()] == (["model"] if existing else [])
    if existing:
        assert_same(old, kv.ViViTClassifier.from_preset(path))


def double(x):
    return 2 * x


@pytest.mark.parametrize(
    ("changes", "sampling", "message"),
    [
        ({"activation": double}, None, "`activation` must be the name of"),
        ({}, {"stride": np.ones(2)}, "`sampling` must hold what JSON can"),
    ],
)
def test_what_the_files_cannot_hold_is_refused(changes, sampling, message, tmp_path):
    model = make(**changes)
    with pytest.raises(ValueError, match=message):
        model.save_to_preset(tmp_path / "model", sampling=sampling)
    assert not list(tmp_path.iterdir())


# === Files that are damaged, or were made to do harm ===


def policy(name):
    return {"module": "keras", "class_name": name, "config": {}}


@pytest.mark.parametrize(
    "change",
    [
        {"activation": {"module": "os", "class_name": "function", "config": "system"}},
        {"activation": {"class_name": "__lambda__", "config": {"value": "x"}}},
        {"activation": {"module": "subprocess", "class_name": "Popen", "config": {}}},
        {"dtype": {"module": "os", "class_name": "DTypePolicy", "config": {}}},
        {"dtype": policy("Sequential")},
        {
            "dtype": {
                **policy("DTypePolicyMap"),
                "config": {"policy_map": {"a": policy("x")}},
            }
        },
        {"seed": {"module": "builtins", "class_name": "function", "config": "print"}},
        {"class_names": [{"class_name": "Harm", "module": "harm", "config": {}}]},
        {"surprise": 1},
    ],
)
def test_config_names_nothing_that_could_run(change, folder):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["config"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"config\.json must hold arguments of"):
        kv.ViViTClassifier.from_preset(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"registered_name": "keras_hub>ViTBackbone"},
        {"registered_name": None, "module": "os", "class_name": "system"},
        {"registered_name": ["keras_vivit>ViViTBackbone"]},
        {"config": "text"},
    ],
)
def test_other_classes_are_refused(change, folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=r"config\.json must hold the config of one"):
        kv.ViViTClassifier.from_preset(folder)


def test_arguments_out_of_range_are_refused(folder):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["config"]["num_heads"] = "many"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"config\.json must describe a model"):
        kv.ViViTClassifier.from_preset(folder)


# Keras looks for a layer that it could not load in further places, and warns there.
@pytest.mark.filterwarnings("ignore:Skipping nested container")
@pytest.mark.parametrize("kind", ["truncated", "empty", "missing", "foreign"])
def test_damaged_weights_are_refused(kind, folder):
    path = folder / "model.weights.h5"
    content = path.read_bytes()
    path.unlink()
    if kind == "foreign":
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]).save_weights(path)
    elif kind != "missing":
        path.write_bytes(content[: len(content) // 2] if kind == "truncated" else b"")
    with pytest.raises(ValueError, match="must be a whole file of the model's weights"):
        kv.ViViTClassifier.from_preset(folder)


def test_missing_metadata_is_refused(folder):
    (folder / "metadata.json").unlink()
    with pytest.raises(ValueError, match=r"metadata\.json must be a readable JSON"):
        kv.ViViTClassifier.from_preset(folder)


# === The Hub ===

TRANSFER = """
import sys
import numpy as np
import keras_vivit as kv

kv.upload_preset("hf://me/mine", sys.argv[1], private=True)
kv.upload_preset("hf://me/mine", sys.argv[1], revision="next")
model = kv.ViViTClassifier.from_preset("hf://me/mine")
backbone = kv.ViViTBackbone.from_preset("hf://me/mine")
assert backbone.sampling == {"fps": 30}
with np.load(sys.argv[2]) as file:
    np.save(sys.argv[3], model.predict_on_batch(file["video"]))
"""


@pytest.mark.slow
def test_models_go_to_the_hub_and_come_back(hub, tmp_path):  # noqa: F811
    model = make()
    model.save_to_preset(tmp_path / "model", sampling={"fps": 30})
    np.savez(tmp_path / "video.npz", video=VIDEO)
    paths = [tmp_path / "model", tmp_path / "video.npz", tmp_path / "outputs.npy"]
    command = [sys.executable, "-c", TRANSFER, *paths]
    environment = {**os.environ, "HF_TOKEN": "hf_none"}
    subprocess.run(command, check=True, env=environment)
    outputs = np.load(tmp_path / "outputs.npy")
    np.testing.assert_allclose(outputs, flat(model(VIDEO))[0], atol=1e-5)
    asked = (hub / "requests.txt").read_text().splitlines()
    assert "/api/models/me/mine/commit/main" in asked
    assert "/api/models/me/mine/commit/next" in asked
    assert "/api/models/me/mine/branch/next" in asked


@pytest.mark.parametrize("uri", ["me/mine", "hf://mine", "hf://me/mine@v1"])
def test_wrong_addresses_are_refused(uri, folder):
    with pytest.raises(ValueError, match=r"must be 'hf://owner/name'.*Received"):
        kv.upload_preset(uri, folder)


def test_other_folders_are_not_uploaded(tmp_path, folder):
    with pytest.raises(ValueError, match=r"`directory` must be.*without config\.json"):
        kv.upload_preset("hf://me/mine", tmp_path)
    (folder / "README.md").unlink()
    with pytest.raises(ValueError, match=r"`directory` must be.*without README\.md"):
        kv.upload_preset("hf://me/mine", folder)
