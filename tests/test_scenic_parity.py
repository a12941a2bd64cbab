"""Scenic's own logits, from its own checkpoints; see `parity/scenic/README.md`."""

import keras
import numpy as np
import pytest
from helpers import flat, normal
from scenic import CASES, assert_close, case_names, read_case, write_checkpoint

import keras_vivit as kv

NAMES = case_names()


def untold(settings):
    """The constructor arguments that a Scenic checkpoint does not tell."""
    names = ["video_shape"]
    if settings["pooling"] == "mean" and settings["variant"] in (
        "spatio_temporal",
        "factorized_dot_product",
    ):
        names.append("variant")
    if "attention_order" in settings:
        names.append("attention_order")
    return {name: settings[name] for name in names}


def load(name, settings, model=kv.ViViTClassifier, **changes):
    arguments = {**untold(settings), "rescaling": None, **changes}
    if model is kv.ViViTClassifier:
        arguments.setdefault("classifier_activation", None)
    return model.from_preset(CASES / f"{name}.msgpack", **arguments)


def weights(model):
    return {w.path: flat(w)[0] for w in model.weights}


def test_all_eleven_cases_are_found():
    assert len(NAMES) == 11


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_scenics(name):
    case = read_case(name)
    model = load(name, case.settings)
    config = model.get_config()
    assert {key: config[key] for key in case.settings} == case.settings
    # Compiled: JAX takes twice as long to compile a new size operation by operation.
    assert_close(model.predict_on_batch(case.inputs), case.logits)


def test_backbone_leaves_the_head_aside():
    case = read_case("odd_m1_token")
    backbone = load("odd_m1_token", case.settings, kv.ViViTBackbone)
    classifier = load("odd_m1_token", case.settings)
    tokens = classifier.backbone.predict_on_batch(case.inputs)
    np.testing.assert_array_equal(backbone.predict_on_batch(case.inputs), tokens)


def test_models_with_weights_take_raw_pixels():
    case = read_case("odd_m1_token")
    model = load("odd_m1_token", case.settings, rescaling=(1 / 127.5, -1))
    assert_close(model.predict_on_batch((case.inputs + 1) * 127.5), case.logits)
    default = kv.ViViTClassifier.from_preset(
        CASES / "odd_m1_token.msgpack", **untold(case.settings)
    )
    assert default.get_config()["rescaling"] == (1 / 127.5, -1)


# === What a file does not tell ===


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("odd_m1_token", "video_shape"),
        ("odd_m3_space_time", "attention_order"),
        ("odd_m4_gap", "variant"),
    ],
)
def test_untold_argument_must_be_given(name, argument):
    settings = untold(read_case(name).settings)
    del settings[argument]
    with pytest.raises(ValueError, match=f"`{argument}` must be given"):
        kv.ViViTClassifier.from_preset(CASES / f"{name}.msgpack", **settings)


def test_the_order_of_variant_3_matters():
    # Guards the two order cases: with the wrong order the logits must be off.
    case = read_case("odd_m3_space_time")
    model = load("odd_m3_space_time", case.settings, attention_order="time_space")
    logits = model.predict_on_batch(case.inputs)
    assert np.abs(logits - case.logits).max() > 1e-3


# === Other heads ===


def test_other_classes_give_a_new_head_and_say_so():
    case = read_case("odd_m1_token")
    with pytest.warns(UserWarning, match="gives way to a new one.*num_classes=9"):
        model = load("odd_m1_token", case.settings, num_classes=9)
    assert not flat(model.predict_on_batch(case.inputs))[0].any()  # Kernel of zeros.
    same = load("odd_m1_token", case.settings, kv.ViViTBackbone)
    for a, b in zip(model.backbone.weights, same.weights, strict=True):
        np.testing.assert_array_equal(flat(a), flat(b))


def test_one_dense_layer_is_split_into_named_heads():
    case = read_case("odd_m2_token")
    total = case.settings["num_classes"]
    heads = {"noun": total - 2, "verb": 2}
    logits = load("odd_m2_token", case.settings, num_classes=heads).predict_on_batch(
        case.inputs
    )
    assert_close(logits["noun"], case.logits[:, :-2])
    assert_close(logits["verb"], case.logits[:, -2:])


# === Other grids ===


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("odd")])
def test_position_tables_are_resampled(name):
    settings = read_case(name).settings
    tubelet = settings["tubelet_size"]
    grid = (4, 3, 4)
    shape = (*(n * p for n, p in zip(grid, tubelet, strict=True)), 1)
    same = weights(load(name, settings))
    model = load(
        name, settings, video_shape=shape, source_video_shape=settings["video_shape"]
    )
    tables = 0
    for path, value in weights(model).items():
        if path.endswith("table"):
            tables += 1
            expected = kv.resize_position_table(same[path], value.shape[:-1])
            np.testing.assert_allclose(value, expected, atol=1e-6)
        else:
            np.testing.assert_array_equal(value, same[path])
    assert tables == (2 if settings["variant"] == "factorized_encoder" else 1)
    assert model.predict_on_batch(normal(1, *shape)).shape[0] == 1


def test_unknown_source_grid_is_an_error():
    settings = read_case("odd_m1_token").settings
    with pytest.raises(ValueError, match="`source_video_shape` names the size"):
        load("odd_m1_token", settings, video_shape=(12, 8, 40, 1))


@pytest.mark.parametrize("frames", [1, 3, 4])
def test_still_video_keeps_its_tokens_with_another_tubelet_length(frames):
    settings = read_case("odd_m1_token").settings
    old, *patch = settings["tubelet_size"]
    model = load(
        "odd_m1_token",
        settings,
        video_shape=(3 * frames, *settings["video_shape"][1:]),
        source_video_shape=settings["video_shape"],
        tubelet_size=(frames, *patch),
    )
    same = load("odd_m1_token", settings)
    still = np.repeat(normal(1, 1, *settings["video_shape"][1:]), 12, axis=1)
    assert_close(
        model.predict_on_batch(still[:, : 3 * frames]),
        same.predict_on_batch(still[:, : 3 * old]),
    )


def test_one_channel_is_as_good_as_three_equal_ones():
    settings = read_case("m1_token").settings
    *size, channels = settings["video_shape"]
    assert channels == 3
    grey = normal(2, *size, 1)
    model = load("m1_token", settings, video_shape=(*size, 1))
    same = load("m1_token", settings)
    assert_close(
        model.predict_on_batch(grey),
        same.predict_on_batch(np.repeat(grey, 3, axis=-1)),
    )


def test_image_kernel_samples_frames_uniformly(tmp_path):
    case = read_case("odd_m1_token")
    params = dict(case.params)
    params["embedding/kernel"] = params["embedding/kernel"][0]  # (h, w, c, d)
    path = write_checkpoint(tmp_path / "checkpoint", params)
    frames, *size = case.settings["video_shape"]
    shape = (frames // 2, *size)
    model = kv.ViViTClassifier.from_preset(path, video_shape=shape)
    assert model.get_config()["tubelet_size"] == (1, *case.settings["tubelet_size"][1:])


# === Files that do not fit ===


@pytest.mark.parametrize("name", ["odd_m1_token", "odd_m2_token", "odd_m3_space_time"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"Missing in the checkpoint: .*encoderblock_1/[\w/]+ \("),
        ("extra", r"Not in the model: posembed_2/kernel \(4, 2\)"),
        ("wrong shape", r"must have the shape of .*, \(\d+, \d+\). Received: \(7, 2\)"),
        ("no kernel", "must hold the tensor embedding/kernel.*Received: "),
        ("wrong table", "must have one row for each token of the grid"),
    ],
)
def test_a_tree_that_does_not_fit_is_refused(name, change, message, tmp_path):
    case = read_case(name)
    params = dict(case.params)
    block = next(k for k in params if "encoderblock_1" in k)
    dense = next(k for k in params if k.endswith("Dense_1/kernel"))
    table = next(k for k in params if k.endswith("pos_embedding"))
    if change == "missing":
        del params[block]
    elif change == "extra":
        params["posembed_2/kernel"] = np.zeros((4, 2))
    elif change == "wrong shape":
        params[dense] = np.zeros((7, 2))
    elif change == "no kernel":
        del params["embedding/kernel"]
    else:
        params[table] = params[table][:, :-2]
    path = write_checkpoint(tmp_path / "checkpoint", params)
    with pytest.raises(ValueError, match=message):
        kv.ViViTClassifier.from_preset(path, **untold(case.settings))


def test_loaded_model_survives_saving(tmp_path):
    case = read_case("odd_m2_token")
    model = load("odd_m2_token", case.settings)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert_close(again.predict_on_batch(case.inputs), case.logits)
