"""Low-rank adapters train, alone with the head, and merge when saved."""

import keras
import numpy as np
import pytest
from helpers import SMALL_VIDEO, flat, normal, slow, small_classifier

from keras_vivit.backbone import VARIANTS


def make(variant="spatio_temporal"):
    return small_classifier(variant, num_layers=1)


@pytest.mark.parametrize("variant", list(VARIANTS)[:1] + slow(*list(VARIANTS)[1:]))
def test_fit_trains_adapters_and_head_alone(variant, tmp_path):
    model, videos = make(variant), normal(4, *SMALL_VIDEO)
    before = flat(model(videos))[0]
    model.enable_lora(2)
    np.testing.assert_allclose(flat(model(videos))[0], before, atol=1e-6)
    trained = {v.path for v in model.trainable_variables}
    assert any("lora" in path for path in trained)
    assert all("lora" in path or path.startswith("head/") for path in trained)

    weights = {v.path: flat(v)[0] for v in model.weights}
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    # The first step moves the second factor alone: it starts as zero.
    model.fit(videos, np.array([0, 1, 2, 0]), epochs=2, verbose=0)
    changed = {v.path for v in model.weights if np.any(flat(v)[0] != weights[v.path])}
    assert changed <= trained
    # Softmax is blind to a shift of all keys, but not to their direction.
    assert changed == trained

    after = flat(model(videos))[0]
    assert np.abs(after - before).max() > 1e-3
    model.save(tmp_path / "model.keras")
    merged = keras.saving.load_model(tmp_path / "model.keras")
    assert not any("lora" in v.path for v in merged.weights)
    np.testing.assert_allclose(flat(merged(videos))[0], after, atol=1e-5)


def test_wrong_ranks_and_a_second_call_are_refused():
    model = make()
    with pytest.raises(ValueError, match="`rank` must"):
        model.enable_lora(0)
    assert all(v.trainable for v in model.weights)
    model.enable_lora(2, targets=["query"])
    for targets in (None, ["query"], ["mlp"]):
        with pytest.raises(ValueError, match="must be called once"):
            model.enable_lora(2, targets=targets)
