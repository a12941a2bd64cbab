"""Writes small checkpoints with random weights, and their outputs, by `transformers`.

    python tests/parity/transformers/make.py

The stored files are those of transformers 5.23.0 (from VideoMAE's on: 5.24.0) and
PyTorch 2.13.0.
"""

import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 40,
    "num_labels": 5,
}


def write(folder):
    """Writes `vivit` (again in shards and in PyTorch's format), `vit`, and outputs."""
    import torch
    import transformers

    torch.manual_seed(0)
    video = transformers.VivitForVideoClassification(
        transformers.VivitConfig(
            image_size=16, num_frames=6, tubelet_size=[2, 4, 8], **SIZES
        )
    )
    image = transformers.ViTModel(
        transformers.ViTConfig(image_size=16, patch_size=4, **SIZES),
        add_pooling_layer=False,
    )
    for model in (video, image):
        model.eval()
        with torch.no_grad():
            # Fresh weights are too small for mistakes to show.
            for weight in model.parameters():
                weight.normal_(0, 0.3)
    video.save_pretrained(folder / "vivit")
    video.save_pretrained(folder / "vivit_sharded", max_shard_size="20KB")
    image.save_pretrained(folder / "vit")
    # The names in memory, which are not those that `save_pretrained` writes.
    video.config.save_pretrained(folder / "vivit_in_memory")
    torch.save(video.state_dict(), folder / "vivit_in_memory" / "pytorch_model.bin")

    rng = np.random.default_rng(0)
    videos = rng.uniform(-1, 1, (2, 6, 16, 16, 3)).astype("float32")
    images = rng.uniform(-1, 1, (2, 16, 16, 3)).astype("float32")
    with torch.no_grad():
        logits = video(torch.tensor(videos).permute(0, 1, 4, 2, 3)).logits
        tokens = image(torch.tensor(images).permute(0, 3, 1, 2)).last_hidden_state
    np.savez(
        folder / "outputs.npz",
        videos=videos,
        images=images,
        logits=logits.numpy(),
        tokens=tokens.numpy(),
    )


def write_videomae(folder, **changes):
    """Writes a VideoMAE with a head for each way of pooling, and their logits.

    Returns both models, for more checks where `transformers` is there.
    """
    import torch
    import transformers

    torch.manual_seed(1)
    videos = np.random.default_rng(1).uniform(-1, 1, (2, 6, 16, 16, 3))
    outputs, models = {"videos": videos.astype("float32")}, []
    for name, mean_pooling in (("videomae", True), ("videomae_first", False)):
        config = transformers.VideoMAEConfig(
            image_size=16,
            patch_size=8,
            num_frames=6,
            tubelet_size=2,
            use_mean_pooling=mean_pooling,
            **{**SIZES, **changes},
        )
        model = transformers.VideoMAEForVideoClassification(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(0, 0.3)
            pixels = torch.tensor(outputs["videos"]).permute(0, 1, 4, 2, 3)
            outputs[name] = model(pixels).logits.numpy()
        model.save_pretrained(folder / name)
        models.append(model)
    np.savez(folder / "videomae.npz", **outputs)
    return models


def write_videomae_pretraining(folder):
    """Writes a VideoMAE with its decoder, its predictions and loss, and a mask."""
    import torch
    import transformers

    torch.manual_seed(5)
    rng = np.random.default_rng(5)
    config = transformers.VideoMAEConfig(
        image_size=16,
        patch_size=4,
        num_frames=4,
        tubelet_size=2,
        decoder_hidden_size=12,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=20,
        **SIZES,
    )
    model = transformers.VideoMAEForPreTraining(config).eval()
    videos = rng.integers(0, 256, (2, 4, 16, 16, 3), "uint8")
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = torch.tensor((videos / 255 - mean) / deviation, dtype=torch.float32)
    # Tubes with other places in each sample: 12 of 16 are hidden.
    places = np.argsort(rng.random((2, 1, 16))) < 12
    hidden = np.repeat(places, 2, axis=1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)
        outputs = model(
            pixels.permute(0, 1, 4, 2, 3),
            bool_masked_pos=torch.tensor(hidden.reshape(2, -1)),
        )
    model.save_pretrained(folder / "videomae_pretraining")
    np.savez(
        folder / "videomae_pretraining.npz",
        videos=videos,
        hidden=hidden.reshape(2, 2, 4, 4),
        voxels=outputs.logits.numpy(),
        loss=outputs.loss.numpy(),
    )


def write_timesformer(folder):
    """Writes a TimeSformer, its logits, and its tokens in the order of time first."""
    import torch
    import transformers

    torch.manual_seed(3)
    config = transformers.TimesformerConfig(
        image_size=16, patch_size=4, num_frames=3, **SIZES
    )
    model = transformers.TimesformerForVideoClassification(config).eval()
    videos = np.random.default_rng(3).uniform(-1, 1, (2, 3, 16, 16, 3))
    videos = videos.astype("float32")
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)
        pixels = torch.tensor(videos).permute(0, 1, 4, 2, 3)
        logits = model(pixels).logits.numpy()
        tokens = model.timesformer(pixels).last_hidden_state.numpy()
    token, others = tokens[:, :1], tokens[:, 1:]  # the class token, (h, w, t)
    others = others.reshape(2, 16, 3, -1).swapaxes(1, 2).reshape(2, 48, -1)
    model.save_pretrained(folder / "timesformer")
    np.savez(
        folder / "timesformer.npz",
        videos=videos,
        logits=logits,
        tokens=np.concatenate([token, others], axis=1),
    )


def write_image_models(folder):
    """Writes a DINOv2, a ViTMAE with its decoder, a DeiT, and their tokens."""
    import torch
    import transformers

    torch.manual_seed(4)
    sizes = {"image_size": 16, "patch_size": 4, **SIZES}
    decoder = {
        "decoder_hidden_size": 12,
        "decoder_intermediate_size": 12,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
    }
    models = {
        "dinov2": transformers.Dinov2ForImageClassification(
            transformers.Dinov2Config(mlp_ratio=2, **sizes)
        ),
        "vit_mae": transformers.ViTMAEForPreTraining(
            transformers.ViTMAEConfig(mask_ratio=0.0, **decoder, **sizes)
        ),
        # DeiT without distillation is a ViT with a head.
        "deit": transformers.ViTForImageClassification(transformers.ViTConfig(**sizes)),
    }
    images = np.random.default_rng(4).uniform(-1, 1, (2, 16, 16, 3)).astype("float32")
    outputs = {"images": images}
    pixels = torch.tensor(images).permute(0, 3, 1, 2)
    for name, model in models.items():
        model.eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(0, 0.3)
            options = {}
            if name == "vit_mae":  # Patches are sorted by noise.
                options["noise"] = torch.arange(16.0).expand(2, 16)
            tokens = model.base_model(pixels, **options).last_hidden_state
        outputs[name] = tokens.numpy()
        model.save_pretrained(folder / name)
    np.savez(folder / "image_models.npz", **outputs)


if __name__ == "__main__":
    write(HERE)
    write_videomae(HERE)
    write_videomae_pretraining(HERE)
    write_timesformer(HERE)
    write_image_models(HERE)
