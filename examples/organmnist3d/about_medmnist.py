"""What the report says of MedMNIST's volumes, and of the synthetic ones."""

import sys
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common.report.page import About

MEDMNIST = (
    "J. Yang et al., MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D "
    "biomedical image classification, Scientific Data 10:41, 2023",
    "https://doi.org/10.1038/s41597-022-01721-8",
)
SOURCES = {
    "organmnist3d": (
        (
            "P. Bilic et al., The Liver Tumor Segmentation Benchmark (LiTS), 2019",
            "https://arxiv.org/abs/1901.04056",
        ),
        (
            "X. Xu et al., Efficient Multiple Organ Localization in CT Image Using 3D "
            "Region Proposal Network, IEEE Transactions on Medical Imaging 38(8), 2019",
            "https://doi.org/10.1109/TMI.2019.2894854",
        ),
    )
}
NOTICES = {
    "synthetic": "<strong>Synthetic data.</strong> Shapes that a program drew, not "
    "medical images. The numbers show that the recipe runs; they say nothing about "
    "OrganMNIST3D or any other real data.",
    "custom": "<strong>Custom data file.</strong> It is not the one that MedMNIST "
    "publishes (its MD5 differs): the numbers cannot be compared directly with "
    "published ones.",
    "official": "<strong>MedMNIST's official file</strong>, as its MD5 shows.",
}


def about(data, record):
    """Returns the report's `About` of a `data.Dataset`."""
    kind = "synthetic " if data.source == "synthetic" else ""
    notice = NOTICES[data.source]
    return About(
        name=display_name(data),
        noun="volume",
        part="slice",
        kind=kind,
        lead=lead(data, record, kind),
        notice=f'<p class="notice {escape(data.source)}">{notice}</p>',
        facts={
            "name": data.name,
            "kind": {"custom": "custom file", "official": "official file"}.get(
                data.source
            ),
            "MD5": data.md5,
            "training volumes": len(data.train.labels),
            "validation volumes": len(data.val.labels),
            "test volumes": len(data.test.labels),
        },
        ribbon='<p class="ribbon">Synthetic data: these are no medical results</p>'
        if kind
        else "",
        licence="" if kind else licence(data),
        second_view=second_view(data),
    )


def about_pretraining(data, record, volumes):
    """Returns that of a training without labels on so many volumes."""
    changed = about(data, record)
    facts = {**changed.facts, "training volumes": volumes, "test volumes": None}
    size = " &times; ".join([str(record["size"])] * 3)
    return changed._replace(
        lead=f"Pre-trained without labels on {volumes:,} {changed.kind}volumes of "
        f"{size} voxels, validated on {len(data.val.labels):,}.",
        facts=facts,
    )


def display_name(data):
    if data.source == "synthetic":
        return "synthetic volumes"
    return escape(data.name.removesuffix("mnist3d").capitalize() + "MNIST3D")


def lead(data, record, kind):
    size = " &times; ".join([str(record["size"])] * 3)
    held_out = "" if record.get("fold") is None else ", held out of the training set"
    return (
        f"Trained on {len(data.train.labels):,} {kind}volumes of {size} voxels to tell "
        f"{len(data.class_names)} classes apart, validated on "
        f"{len(data.val.labels):,}, tested on {len(data.test.labels):,}{held_out}."
    )


def second_view(data):
    swapped, mirrored = "", "mirrored"
    if data.sides:
        swapped, mirrored = "label-swapped ", "left-right mirrored"
    return (
        f"The mean of the prediction and of the {swapped}prediction for the\n"
        f"{mirrored} volume."
    )


def licence(data):
    cited = "".join(
        f'<li>{escape(text)}. <a href="{link}">{link.partition("://")[2]}</a></li>'
        for text, link in (MEDMNIST, *SOURCES.get(data.name, ()))
    )
    return f"""<section id="licence">
<h2>Licence and citations</h2>
<p>The volumes are from <a href="https://medmnist.com">MedMNIST v2</a>, under
<a href="https://creativecommons.org/licenses/by/4.0/">CC BY 4.0</a>.
<strong>Not for clinical use.</strong> Please cite:</p>
<ul>{cited}</ul>
</section>"""
