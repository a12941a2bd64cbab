"""Predictions from several views of a video, beside loops written by hand."""

import weakref

import keras
import numpy as np
import pytest
from helpers import (
    moving_video,
    needs_av,
    normal,
    randomize,
    small_classifier,
    write_video,
)

import keras_vivit
from keras_vivit.data import (
    predict_over_time,
    predict_views,
    read_video,
    sample_clips,
    three_crops,
    views,
)
from keras_vivit.data.sampling import RULES

FRAMES, SIDE = 4, 16


def colour_classifier(**arguments):
    """A classifier of clips with 4 frames of 16 x 16 pixels in colour."""
    model = keras_vivit.ViViTClassifier(
        (FRAMES, SIDE, SIDE, 3),
        arguments.pop("num_classes", 3),
        tubelet_size=(2, 8, 8),
        embed_dim=16,
        num_layers=1,
        num_heads=2,
        mlp_dim=16,
        rescaling=(1 / 127.5, -1),
        **arguments,
    )
    randomize(model)
    return model


def softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def by_hand(logits_model, video, rule, clips, stride, average):
    logits = []
    for clip in sample_clips(len(video), FRAMES, stride, clips, rule):
        for crop in three_crops(video[clip], SIDE, rule):
            logits.append(keras.ops.convert_to_numpy(logits_model(crop[None]))[0])
    if average == "logits":
        return softmax(np.mean(logits, axis=0))
    return softmax(np.array(logits)).mean(axis=0)


@pytest.fixture(scope="module")
def models():
    """The same weights, with probabilities and with logits."""
    keras.utils.set_random_seed(0)
    model = colour_classifier()
    logits_model = colour_classifier(classifier_activation=None)
    logits_model.set_weights(model.get_weights())
    return model, logits_model


@needs_av
@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize("rule", RULES)
def test_views_are_the_loop_written_by_hand(rule, average, models, tmp_path):
    _, logits_model = models
    frames = moving_video(30, SIDE, 25)
    path = write_video(tmp_path / "clip.mov", frames, rate=30)
    expected = by_hand(logits_model, frames, rule, 3, 2, average)
    for source in (path, frames):
        for chosen in models:
            found = predict_views(chosen, source, 3, 3, 2, rule, average=average)
            assert found.dtype == "float32"
            np.testing.assert_allclose(found, expected, atol=1e-5)


@needs_av
def test_size_is_that_of_the_shorter_side(models, tmp_path):
    model, logits_model = models
    path = write_video(tmp_path / "clip.mov", moving_video(12, 40, 60))
    frames = read_video(path, size=20)
    assert frames.shape == (12, 20, 30, 3)
    expected = by_hand(logits_model, frames, "scenic", 2, 1, "logits")
    np.testing.assert_allclose(
        predict_views(model, path, num_clips=2, size=20), expected, atol=1e-5
    )
    # Without it, frames just cover the model's size.
    frames = read_video(path, size=16)
    expected = by_hand(logits_model, frames, "scenic", 2, 1, "logits")
    np.testing.assert_allclose(
        predict_views(model, path, num_clips=2), expected, atol=1e-5
    )


def test_arrays_are_resized(models):
    model, logits_model = models
    frames = np.repeat(np.repeat(moving_video(8, 16, 24), 2, axis=1), 2, axis=2)
    small = moving_video(8, 16, 24)
    expected = by_hand(logits_model, small, "scenic", 2, 1, "logits")
    np.testing.assert_allclose(
        predict_views(model, frames, num_clips=2), expected, atol=0.05
    )


def test_one_crop_is_the_centre(models):
    model, _ = models
    frames = moving_video(8, SIDE, 24)
    clip = frames[sample_clips(8, FRAMES)[0]][:, :, 4:20]
    expected = model.predict(clip[None], verbose=0)[0]
    found = predict_views(model, frames, num_clips=1, num_crops=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@needs_av
def test_what_is_not_given_comes_from_the_model(tmp_path):
    model = colour_classifier()
    path = write_video(tmp_path / "clip.mov", moving_video(40, 20, 30), rate=20)
    given = predict_views(model, path, 2, stride=3, rule="videomae", size=18)
    model.sampling = {"stride": 3, "rule": "videomae", "size": 18}
    np.testing.assert_allclose(predict_views(model, path, 2), given, atol=1e-6)
    assert np.abs(predict_views(model, path, 2, stride=1) - given).max() > 1e-4
    # At half the rate of the file, frames lie twice as far from each other.
    model.sampling = {"stride": 2, "fps": 10}
    found = predict_views(model, path, num_clips=1, num_crops=1)
    frames = read_video(path, range(13, 28, 4), size=(16, 24), crop=(16, 16))
    # 20 frames at 10 a second, a clip of 8 starts at 6: 2 * 6 + 1 = 13.
    expected = model.predict(frames[None], verbose=0)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_grey_models_take_videos_in_colour():
    model = small_classifier()
    video = moving_video(6, SIDE, 20)
    grey = np.rint(video @ np.array([0.299, 0.587, 0.114]))[..., None]
    expected = predict_views(model, grey.astype("uint8"), num_clips=2)
    np.testing.assert_allclose(
        predict_views(model, video, num_clips=2), expected, atol=1e-2
    )


def test_several_heads_give_a_dictionary():
    classes = {"verb": 2, "noun": 4}
    model = colour_classifier(num_classes=classes)
    video = moving_video(8, SIDE, 24)
    found = predict_views(model, video, num_clips=2)
    assert {name: len(x) for name, x in found.items()} == classes
    clips = [video[clip] for clip in sample_clips(8, FRAMES, num_clips=2)]
    crops = np.concatenate([three_crops(clip, SIDE) for clip in clips])
    for name, outputs in model.predict(crops, verbose=0).items():
        expected = softmax(np.log(outputs).mean(axis=0))
        np.testing.assert_allclose(found[name], expected, atol=1e-5)


def test_sigmoids_stay_apart():
    model = colour_classifier(classifier_activation="sigmoid")
    video = moving_video(8, SIDE, 24)
    crops = np.concatenate(
        [three_crops(video[c], SIDE) for c in sample_clips(8, FRAMES, num_clips=2)]
    )
    outputs = model.predict(crops, verbose=0)
    logits = np.log(outputs / (1 - outputs)).mean(axis=0)
    found = predict_views(model, video, num_clips=2)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-5)
    found = predict_views(model, video, num_clips=2, average="probabilities")
    np.testing.assert_allclose(found, outputs.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("activation", ["softmax", None])
def test_models_of_others_work(activation):
    inputs = keras.Input((FRAMES, SIDE, SIDE, 3))
    x = keras.layers.GlobalAveragePooling3D()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, activation)(x))
    video = moving_video(8, SIDE, SIDE)
    outputs = model.predict(video[None, 2:6], verbose=0)[0]
    expected = outputs if activation else softmax(outputs)
    found = predict_views(model, video, num_clips=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # Without an activation layer, values tell.
    wrapped = keras.Model(inputs, keras.layers.Reshape((3,))(model(inputs)))
    found = predict_views(wrapped, video, num_clips=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_volume_is_one_view(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="needs the extra `volume`")
    model = small_classifier()
    image = nibabel.Nifti1Image(normal(4, 16, 16), np.eye(4))
    nibabel.save(image, tmp_path / "scan.nii.gz")
    expected = model.predict(normal(4, 16, 16)[None, ..., None], verbose=0)[0]
    found = predict_views(model, tmp_path / "scan.nii.gz")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_clips": 0}, "`num_clips` must be a positive integer"),
        ({"num_crops": 2}, "`num_crops` must be one of 1, 3"),
        ({"average": "max"}, "`average` must be one of 'logits', 'probabilities'"),
        ({"stride": 0}, "`stride` must be a positive integer"),
        ({"rule": "middle"}, "`rule` must be one of"),
        ({"size": 12}, "Frames must hold .16, 16. after resizing"),
        ({"source": np.zeros((8, 16, 16))}, "`source` must be a path or an array"),
        ({"source": "missing.mp4"}, "no such file or folder"),
    ],
)
def test_wrong_arguments_are_named(models, change, message):
    arguments = {"source": moving_video(8, SIDE, SIDE), **change}
    if isinstance(arguments["source"], str):
        pytest.importorskip("av", reason="needs the package av")
    with pytest.raises(ValueError, match=message):
        predict_views(models[0], **arguments)


# === Over time ===


@needs_av
def test_windows_slide_to_the_end(models, tmp_path):
    model, _ = models
    frames = moving_video(23, SIDE, 20)
    path = write_video(tmp_path / "clip.mov", frames)
    starts, expected = [0, 5, 10, 15, 16], []
    for start in starts:
        clip = frames[start : start + 7 : 2, :, 2:18]
        expected.append(model.predict(clip[None], verbose=0)[0])
    for source in (path, frames):
        found = predict_over_time(model, source, step=5, stride=2, batch_size=2)
        assert found[0].tolist() == starts
        np.testing.assert_allclose(found[1], expected, atol=1e-5)


def test_windows_overlap_by_half_unless_told(models):
    starts, scores = predict_over_time(models[0], moving_video(10, SIDE, SIDE))
    assert starts.tolist() == [0, 2, 4, 6]
    assert scores.shape == (4, 3)


def test_short_videos_give_one_window(models):
    video = moving_video(3, SIDE, SIDE)
    starts, scores = predict_over_time(models[0], video, stride=2)
    assert starts.tolist() == [0]
    expected = models[0].predict(video[None, [0, 2, 1, 0]], verbose=0)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_windows_of_several_heads_give_a_dictionary():
    model = colour_classifier(num_classes={"verb": 2, "noun": 4})
    _, scores = predict_over_time(model, moving_video(10, SIDE, SIDE))
    assert scores["verb"].shape == (4, 2)
    assert scores["noun"].shape == (4, 4)


def test_old_frames_are_forgotten():
    frames, alive = [], []

    def decode():
        for number in range(200):
            frame = np.full((1,), number)
            frames.append(weakref.ref(frame))
            yield frame

    windows = np.arange(0, 190, 5)[:, None] + np.array([0, 3, 6, 9])
    for window in views._slide(decode(), windows):
        alive.append(sum(frame() is not None for frame in frames))
        assert (window[:, 0] == windows[len(alive) - 1]).all()
    assert len(alive) == len(windows)
    assert max(alive) <= 11
