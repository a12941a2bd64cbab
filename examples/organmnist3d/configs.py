"""What the recipe trains, as data: configurations by name."""

VARIANTS = (
    "spatio_temporal",
    "factorized_encoder",
    "factorized_self_attention",
    "factorized_dot_product",
)

# 125 tokens, the most accurate one.
TUNED = {
    "preset": "vivit_organmnist3d_v2",
    "model": {},  # arguments of `ViViTClassifier` that replace the preset's
    # The same for one variant: half of the heads for time, half for space.
    "variants": {"factorized_dot_product": {"num_heads": 4}},
    "epochs": 120,
    "batch_size": 16,
    "patience": None,  # No early stopping: the last epoch is kept.
    "optimizer": "muon",
    "learning_rate": 2e-3,
    "warmup_epochs": 5,  # then a cosine to zero; None: a constant learning rate
    "weight_decay": 0.05,
    "label_smoothing": 0.1,
    "ema_momentum": 0.99,
    "augmentation": {
        "affine": {"rotation": 15, "scale": 0.15, "shift": 0.1, "rate": 0.7},
        "intensity": {"gain": 0.2, "offset": 0.1, "gamma": 0.3, "noise": 0.05},
        "cutmix": None,
        "erasing": None,
    },
}

# A fifth of the epochs: minutes on two cores.
QUICK = {**TUNED, "epochs": 25}

# The Keras example "Video Vision Transformer", as the notebook has it.
BASELINE = {
    "preset": "vivit_organmnist3d_baseline",
    "model": {},
    "variants": {},
    "epochs": 60,
    "batch_size": 32,
    "patience": 10,
    "optimizer": "adamw",
    "learning_rate": 1e-4,
    "warmup_epochs": None,
    "weight_decay": 1e-5,
    "label_smoothing": 0.0,
    "ema_momentum": None,
    "augmentation": None,
}

# Masked pre-training: a quarter of the tokens is visible.
PRETRAINING = {
    "preset": "vivit_organmnist3d_v2",
    "model": {  # arguments of `ViViTMaskedAutoencoder`
        "mask_ratio": 0.75,
        "masking": "random",
        "drop_path_rate": 0.0,
        "decoder_dim": 48,
        "decoder_num_layers": 2,
        "decoder_num_heads": 4,
        "decoder_mlp_dim": 192,
    },
    "variants": {
        "factorized_self_attention": {"masking": "tube"},
        "factorized_dot_product": {
            **TUNED["variants"]["factorized_dot_product"],
            "masking": "tube",
        },
    },
    "epochs": 120,
    "batch_size": 32,
    "patience": None,
    "optimizer": "muon",
    "learning_rate": 1.5e-3,
    "warmup_epochs": 10,
    "weight_decay": 0.05,
    "ema_momentum": None,
    "augmentation": {
        **TUNED["augmentation"],
        "intensity": {"gain": 0.1, "offset": 0.05, "gamma": 0.1, "noise": 0.0},
    },
}

CONFIGS = {"quick": QUICK, "tuned": TUNED, "baseline": BASELINE}
