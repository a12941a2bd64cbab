"""One row or more per public layer and model, wrong inputs beside right ones.

`test_contract.py` puts every row through the whole layer contract.
"""

import dataclasses
from typing import Any

import keras_vivit as kv
from keras_vivit import augmentation


@dataclasses.dataclass
class Case:
    """A layer, an input and what comes out.

    Shapes hold the batch, or are dictionaries of shapes that do. `wrong` has tuples of
    changed arguments, an input shape (or None for the right one) and the words that
    the error must hold.
    """

    layer: type
    arguments: dict[str, Any]
    input_shape: Any
    output_shape: Any
    wrong: tuple = ()
    label: str = ""

    @property
    def name(self):
        return f"{self.layer.__name__}{'-' if self.label else ''}{self.label}"


GRID = (3, 3, 2, 4, 12)
SEQUENCE = (3, 7, 12)
BLOCK = {
    "num_heads": 4,
    "mlp_dim": 20,
    "dropout_rate": 0.2,
    "attention_dropout_rate": 0.2,
    "drop_path_rate": 0.2,
    "seed": 7,
}
WRONG_BLOCK = (
    ({"num_heads": 0}, None, "`num_heads` must be a positive integer.*num_heads=0"),
    ({"num_heads": 2}, (3, 2, 2, 7), "`num_heads` must divide.*embed_dim=7"),
    ({"mlp_dim": 1.5}, None, "`mlp_dim` must be a positive integer.*mlp_dim=1.5"),
    ({"dropout_rate": 1.0}, None, r"`dropout_rate` must lie in \[0, 1\).*=1.0"),
    ({"attention_dropout_rate": -0.1}, None, "`attention_dropout_rate` must.*-0.1"),
    ({"drop_path_rate": 2}, None, "`drop_path_rate` must lie in.*drop_path_rate=2"),
    ({"activation": "no"}, None, "Could not interpret activation.*no"),
    ({}, (3, 12), r"`inputs` must have the shape.*Received: shape=\(3, 12\)"),
)
MODEL = {
    "video_shape": (4, 6, 8, 2),
    "tubelet_size": (2, 3, 2),
    "embed_dim": 12,
    "num_layers": 2,
    "num_temporal_layers": 1,
    "num_heads": 4,
    "mlp_dim": 20,
    "dropout_rate": 0.2,
    "attention_dropout_rate": 0.2,
    "drop_path_rate": 0.2,
    "rescaling": (0.5, 0.1),
    "seed": 7,
}
AUTOENCODER = {
    **{name: x for name, x in MODEL.items() if name != "num_temporal_layers"},
    "mask_ratio": 0.75,
    "decoder_dim": 8,
    "decoder_num_layers": 1,
    "decoder_num_heads": 2,
    "decoder_mlp_dim": 10,
}
VIDEO = (3, 4, 6, 8, 2)
COLORED = (3, 4, 6, 8, 3)
LABELLED = {"videos": VIDEO, "labels": (3, 3)}
MASKED = {"videos": VIDEO, "frame_mask": (3, 4), "segmentation_masks": VIDEO}
WRONG_MODEL = (
    ({"video_shape": (4, 6, 8)}, None, r"`video_shape` must be 4 pos.*\(4, 6, 8\)"),
    ({"variant": "joint"}, None, "`variant` must be one of.*'joint'"),
    ({"tubelet_size": (2, 7, 2)}, None, r"must not exceed.*height=6.*\[1\]=7"),
    ({"pooling": "max"}, None, "`pooling` must be one of 'mean', 'token'.*'max'"),
    ({"num_layers": 0}, None, "`num_layers` must be a positive integer.*=0"),
    ({"num_temporal_layers": 0}, None, "`num_temporal_layers` must be a positive"),
    ({"drop_path_rate": 1}, None, r"`drop_path_rate` must lie in \[0, 1\).*=1"),
    ({"position_kind": "rotary"}, None, "`position_kind` must be one of.*'rotary'"),
    ({"rescaling": 255}, None, r"`rescaling` must be None or \(scale, offset\).*255"),
)


def _backbone(variant, output_shape, **arguments):
    return Case(
        kv.ViViTBackbone,
        {**MODEL, "variant": variant, **arguments},
        VIDEO,
        output_shape,
        label="-".join([variant, *map(str, arguments.values())]),
    )


CASES = [
    Case(
        kv.TubeletEmbedding,
        {"embed_dim": 12, "tubelet_size": (2, 3, 2)},
        VIDEO,
        (3, 2, 2, 4, 12),
        wrong=(
            ({"embed_dim": 0}, None, "`embed_dim` must be a positive integer.*=0"),
            ({"tubelet_size": (2, 3)}, None, r"`tubelet_size` must be 3 pos.*\(2, 3\)"),
            ({"tubelet_size": 2}, None, "`tubelet_size` must be 3 positive.*=2"),
            ({"strides": (1, 0, 1)}, None, r"`strides` must be 3 pos.*\(1, 0, 1\)"),
            ({"padding": "full"}, None, "`padding` must be one of.*'full'"),
            ({"tubelet_size": (5, 1, 1)}, None, r"exceed.*frames=4.*size\[0\]=5"),
            ({}, (3, 4, 6, 8), r"`inputs` must have the shape.*\(3, 4, 6, 8\)"),
            ({"padding": "same"}, (3, None, 6, 8, 2), "needs known frames.*None"),
        ),
    ),
    Case(
        kv.TubeletEmbedding,
        {
            "embed_dim": 12,
            "tubelet_size": (3, 3, 4),
            "strides": (2, 2, 3),
            "padding": "same",
        },
        VIDEO,
        (3, 2, 3, 3, 12),
        label="overlapping",
    ),
    Case(
        kv.PositionalEncoder,
        {},
        GRID,
        GRID,
        wrong=(
            ({"kind": "rotary"}, None, "`kind` must be one of.*'rotary'"),
            ({}, (3, None, 2, 4, 12), "needs a grid of known size.*None"),
            ({"kind": "factorized"}, SEQUENCE, r"needs the shape.*\(3, 7, 12\)"),
            ({"kind": "sincos"}, (3, 2, 2, 2, 5), "`embed_dim` must be at least 6.*5"),
            ({}, (3, 12), r"`inputs` must have the shape.*\(3, 12\)"),
        ),
    ),
    Case(
        kv.PositionalEncoder,
        {"kind": "factorized"},
        GRID,
        GRID,
        label="factorized",
    ),
    Case(
        kv.PositionalEncoder,
        {"kind": "sincos"},
        (3, 3, 2, 4, 13),
        (3, 3, 2, 4, 13),
        label="sincos",
    ),
    Case(kv.PositionalEncoder, {"kind": "sequence"}, GRID, GRID, label="sequence"),
    Case(
        kv.ClassToken,
        {},
        GRID,
        (3, 25, 12),
        wrong=(({}, (3, 12), r"`inputs` must have the shape.*\(3, 12\)"),),
    ),
    Case(
        kv.DropPath,
        {"rate": 0.5, "seed": 3},
        GRID,
        GRID,
        wrong=(({"rate": 1.0}, None, r"`rate` must lie in \[0, 1\).*rate=1.0"),),
    ),
    Case(
        kv.TokenPooling,
        {},
        GRID,
        (3, 12),
        wrong=(
            ({"pooling": "max"}, None, "`pooling` must be one of.*'max'"),
            ({"pooling": "token"}, None, r'`pooling="token"` needs the shape.*12\)'),
            ({}, (3, 12), r"`inputs` must have the shape.*\(3, 12\)"),
        ),
    ),
    Case(kv.TokenPooling, {"pooling": "token"}, SEQUENCE, (3, 12), label="token"),
    Case(kv.TokenPooling, {"pooling": "first"}, GRID, (3, 12), label="first"),
    Case(kv.ViViTEncoderBlock, BLOCK, GRID, GRID, WRONG_BLOCK),
    Case(kv.ViViTEncoderBlock, BLOCK, SEQUENCE, SEQUENCE, label="sequence"),
    Case(
        kv.FactorizedSelfAttentionBlock,
        BLOCK,
        GRID,
        GRID,
        (
            *WRONG_BLOCK,
            ({"attention_order": "space"}, None, "`attention_order` must be.*'space'"),
            ({}, SEQUENCE, r"`inputs` must have the shape.*\(3, 7, 12\)"),
        ),
    ),
    Case(
        kv.FactorizedSelfAttentionBlock,
        {**BLOCK, "attention_order": "time_space"},
        GRID,
        GRID,
        label="time_space",
    ),
    Case(
        kv.FactorizedSelfAttentionBlock,
        {**BLOCK, "frames": 3},
        SEQUENCE,
        SEQUENCE,
        (
            ({"frames": 0}, None, "`frames` must be a positive integer.*frames=0"),
            ({"frames": 4}, None, r"`inputs` must.*\(3, 7, 12\), frames=4"),
            ({}, (3, 1, 12), r"`inputs` must.*\(3, 1, 12\), frames=3"),
            ({}, GRID, r"`inputs` must have the shape.*\(3, 3, 2, 4, 12\)"),
        ),
        label="frames",
    ),
    Case(
        kv.FactorizedDotProductBlock,
        BLOCK,
        GRID,
        GRID,
        (
            *WRONG_BLOCK,
            ({"num_heads": 3}, None, "`num_heads` must be even.*num_heads=3"),
            ({}, SEQUENCE, r"`inputs` must have the shape.*\(3, 7, 12\)"),
        ),
    ),
    dataclasses.replace(
        _backbone("spatio_temporal", (3, 2, 2, 4, 12)), wrong=WRONG_MODEL
    ),
    _backbone("spatio_temporal", (3, 17, 12), pooling="token"),
    _backbone("factorized_encoder", (3, 2, 12)),
    dataclasses.replace(
        _backbone("factorized_encoder", (3, 3, 12), pooling="token"),
        wrong=(({"position_kind": "factorized"}, None, "`position_kind` must not be"),),
    ),
    dataclasses.replace(
        _backbone("factorized_self_attention", (3, 2, 2, 4, 12)),
        wrong=(
            ({"attention_order": "time"}, None, "`attention_order` must be.*'time'"),
        ),
    ),
    _backbone("factorized_self_attention", (3, 17, 12), pooling="token"),
    dataclasses.replace(
        _backbone("factorized_dot_product", (3, 2, 2, 4, 12)),
        wrong=(({"pooling": "token"}, None, "`pooling` must be \"mean\".*'token'"),),
    ),
    Case(
        kv.ViViTClassifier,
        {**MODEL, "num_classes": 5},
        VIDEO,
        (3, 5),
        wrong=(
            *WRONG_MODEL,
            ({"num_classes": 0}, None, "`num_classes` must be a positive.*=0"),
            ({"num_classes": None}, None, "`num_classes` must be a positive.*=None"),
            ({"video_shape": None}, None, "`video_shape` or `backbone` must be given"),
            ({"backbone": 1}, None, "and not both.*backbone=1"),
            ({"video_shape": None, "backbone": 1}, None, "must be a ViViTBackbone.*=1"),
            ({"num_classes": {}}, None, "`num_classes` must name one head or more"),
            ({"num_classes": {"a/b": 2}}, None, "`num_classes` must name.*'a/b'"),
            ({"num_classes": {"a": 0}}, None, r"`num_classes\['a'\]` must be.*=0"),
            ({"classifier_activation": "no"}, None, "Could not interpret.*no"),
        ),
    ),
    Case(
        kv.ViViTClassifier,
        {
            **MODEL,
            "num_classes": {"noun": 5, "verb": 3},
            "classifier_activation": None,
        },
        VIDEO,
        {"noun": (3, 5), "verb": (3, 3)},
        label="two-heads",
    ),
    Case(
        kv.ViViTMaskedAutoencoder,
        {**AUTOENCODER, "variant": "factorized_self_attention"},
        VIDEO,
        (3, 12, 24),
        wrong=(
            ({"video_shape": (4, 6, 8)}, None, r"`video_shape` must be 4.*\(4, 6, 8\)"),
            (
                {"video_shape": (None, 6, 8, 2), "position_kind": "sincos"},
                None,
                "known",
            ),
            ({"variant": "joint"}, None, "`variant` must be one of.*'joint'"),
            (
                {"variant": "factorized_encoder"},
                None,
                "`variant` must have one encoder",
            ),
            ({"mask_ratio": 1.0}, None, r"`mask_ratio` must lie in \[0, 1\).*=1.0"),
            ({"mask_ratio": 0.1}, None, r"`mask_ratio` must hide.*=0.1.*\(2, 2, 4\)"),
            ({"masking": "random"}, None, "`masking` must be one of 'tube'.*'random'"),
            ({"decoder_dim": 0}, None, "`decoder_dim` must be a positive.*=0"),
            ({"decoder_num_layers": 0}, None, "`decoder_num_layers` must be a pos"),
            ({"decoder_num_heads": 5}, None, "`num_heads` must divide.*embed_dim=8"),
            ({"decoder_mlp_dim": 0}, None, "`mlp_dim` must be a positive.*=0"),
            ({"value_range": (1, 0)}, None, r"`value_range` must be.*\(1, 0\)"),
        ),
        label="tube",
    ),
    Case(
        kv.ViViTMaskedAutoencoder,
        {**AUTOENCODER, "masking": "random", "mask_ratio": 0.7},
        VIDEO,
        (3, 11, 24),
        label="random",
    ),
    Case(
        augmentation.RandomFlip,
        {"axis": "height", "label_permutation": (0, 2, 1), "seed": 7},
        LABELLED,
        LABELLED,
        wrong=(
            ({"axis": "depth"}, None, "`axis` must be one of.*'depth'"),
            ({"rate": 1.5}, None, r"`rate` must lie in \[0, 1\]. Received: rate=1.5"),
            (
                {"label_permutation": (0, 0)},
                None,
                r"each label once.*\(0, 0\)",
            ),
            ({}, VIDEO, "must be a dictionary with 'videos' and 'labels'"),
            ({}, {**LABELLED, "boxes": (3, 4)}, "no other keys.*'boxes'"),
            ({}, {**LABELLED, "labels": (3, 2)}, r"`labels` must have.*\(3, 2\)"),
            ({}, {**LABELLED, "frame_mask": (3, 5)}, r"`frame_mask` must.*\(3, 5\)"),
        ),
    ),
    Case(
        augmentation.RandomAffine,
        {"rotation": 20, "scale": 0.2, "shift": 0.2, "rate": 0.8, "seed": 7},
        VIDEO,
        VIDEO,
        wrong=(
            ({"rotation": -1}, None, "`rotation` must lie in.*rotation=-1"),
            ({"scale": 1}, None, "`scale` must lie in.*scale=1"),
            ({"shift": 3}, None, "`shift` must lie in.*shift=3"),
            ({"rate": 2}, None, "`rate` must lie in.*rate=2"),
            ({}, (3, 6, 8, 2), r"`inputs` must have the shape.*\(3, 6, 8, 2\)"),
            (
                {},
                {"videos": VIDEO, "segmentation_masks": VIDEO[:3]},
                r"`segmentation_masks` must have the shape.*\(3, 4, 6\)",
            ),
        ),
    ),
    Case(
        augmentation.RandomAffine,
        {"rotation": 20, "scale": 0.2, "shift": 0.2, "seed": 7},
        MASKED,
        MASKED,
        label="masks",
    ),
    Case(
        augmentation.RandomIntensity,
        {"gain": 0.2, "offset": 0.1, "gamma": 0.3, "noise": 0.1, "seed": 7},
        VIDEO,
        VIDEO,
        wrong=(
            ({"gain": 1.0}, None, "`gain` must lie in.*gain=1.0"),
            ({"offset": -0.1}, None, "`offset` must lie in.*offset=-0.1"),
            ({"gamma": "much"}, None, "`gamma` must lie in.*gamma='much'"),
            ({"noise": 2}, None, "`noise` must lie in.*noise=2"),
            ({"value_range": (1, 0)}, None, r"`value_range` must be.*\(1, 0\)"),
        ),
    ),
    Case(
        augmentation.RandomErasing,
        {"tubelet_size": (2, 4, 3), "rate": 0.5, "seed": 7},
        VIDEO,
        VIDEO,
        wrong=(
            ({"tubelet_size": 2}, None, "`tubelet_size` must be 3 positive.*=2"),
            ({"rate": 1}, None, "`rate` must lie in.*rate=1"),
        ),
    ),
    Case(
        augmentation.RandomColorJitter,
        {
            "brightness": 0.2,
            "contrast": 0.3,
            "saturation": 0.4,
            "hue": 0.1,
            "value_range": (-4, 4),
            "seed": 7,
        },
        COLORED,
        COLORED,
        wrong=(
            ({"brightness": 1}, None, "`brightness` must lie in.*=1"),
            ({"contrast": -0.1}, None, "`contrast` must lie in.*=-0.1"),
            ({"saturation": 2}, None, "`saturation` must lie in.*=2"),
            ({"hue": 0.6}, None, "`hue` must lie in.*=0.6"),
            ({"value_range": (1, 0)}, None, r"`value_range` must be.*\(1, 0\)"),
            ({}, VIDEO, "must have three channels.*channels=2"),
        ),
    ),
    Case(
        augmentation.RandAugment,
        {"num_ops": 4, "magnitude": 0.5, "value_range": (-4, 4), "seed": 7},
        COLORED,
        COLORED,
        wrong=(
            ({"num_ops": 0}, None, "`num_ops` must be a positive integer.*=0"),
            ({"magnitude": 9}, None, "`magnitude` must lie in.*=9"),
            ({"operations": ()}, None, r"`operations` must be some.*\(\)"),
            ({"operations": ("Rotate",)}, None, "must be some of.*'Rotate'"),
            ({"value_range": (1, 1)}, None, r"`value_range` must be.*\(1, 1\)"),
        ),
    ),
    Case(
        augmentation.RandomResizedCrop,
        {"size": (5, 4), "scale": (0.3, 0.9), "ratio": (0.5, 2.0), "seed": 7},
        {"videos": VIDEO, "segmentation_masks": VIDEO[:4]},
        {"videos": (3, 4, 5, 4, 2), "segmentation_masks": (3, 4, 5, 4)},
        wrong=(
            ({"size": 4}, None, r"`size` must be 2 positive integers.*size=4"),
            ({"scale": (0, 1)}, None, r"`scale` must be two numbers.*\(0, 1\)"),
            ({"scale": (0.5, 0.2)}, None, r"the smaller one first.*\(0.5, 0.2\)"),
            ({"ratio": 1.0}, None, "`ratio` must be two numbers.*ratio=1.0"),
        ),
    ),
    Case(
        augmentation.RandomClip,
        {"num_frames": 3, "rate": (0.5, 2.0), "seed": 7},
        MASKED,
        {n: (3, 3, *shape[2:]) for n, shape in MASKED.items()},
        wrong=(
            ({"num_frames": 0}, None, "`num_frames` must be a positive.*=0"),
            ({"num_frames": 5}, None, "must not exceed the frames.*=5, frames=4"),
            ({"rate": (0, 1)}, None, r"`rate` must be two numbers.*\(0, 1\)"),
        ),
    ),
    *(
        Case(
            layer,
            {"alpha": 0.8, "seed": 7},
            LABELLED,
            LABELLED,
            wrong=(
                ({"alpha": 0}, None, "`alpha` must lie in.*alpha=0"),
                ({}, VIDEO, "must be a dictionary with 'videos' and 'labels'"),
                ({}, {**LABELLED, "labels": (3,)}, r"`labels` must be soft.*\(3,\)"),
            ),
        )
        for layer in (augmentation.MixUp, augmentation.CutMix)
    ),
]
