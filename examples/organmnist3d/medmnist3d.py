"""MedMNIST's six 3-D sets (version 2, https://medmnist.com), as its package has them.

Licence of all six: CC BY 4.0. The position of a class name is its label.
"""

from typing import NamedTuple


class Facts(NamedTuple):
    """What MedMNIST says about a set: the classes by label, and each file's MD5.

    `sides` is what each label becomes when a volume is mirrored along axis 0, which
    runs from one side of the body to the other; `None` where labels have no sides.
    """

    task: str
    class_names: tuple
    md5_28: str
    md5_64: str
    sides: tuple | None = None

    def md5(self, size):
        return self.md5_28 if size == 28 else self.md5_64


ORGANS = (
    "liver",
    "kidney-right",
    "kidney-left",
    "femur-right",
    "femur-left",
    "bladder",
    "heart",
    "lung-right",
    "lung-left",
    "spleen",
    "pancreas",
)
FRACTURES = (
    "buckle rib fracture",
    "nondisplaced rib fracture",
    "displaced rib fracture",
)
SETS = {
    "organmnist3d": Facts(
        "multi-class",
        ORGANS,
        "a0c5a1ff56af4f155c46d46fbb45a2fe",
        "58a2205adf14a9d0a189cb06dc78bf10",
        sides=(0, 2, 1, 4, 3, 5, 6, 8, 7, 9, 10),
    ),
    "nodulemnist3d": Facts(
        "binary-class",
        ("benign", "malignant"),
        "8755a7e9e05a4d9ce80a24c3e7a256f3",
        "c47c5b7d457bf6332200d2ea6d64ecd8",
    ),
    "adrenalmnist3d": Facts(
        "binary-class",
        ("normal", "hyperplasia"),
        "bbd3c5a5576322bc4cdfea780653b1ce",
        "17721accfe9fb005146a47d33bc54b2f",
    ),
    "fracturemnist3d": Facts(
        "multi-class",
        FRACTURES,
        "6aa7b0143a6b42da40027a9dda61302f",
        "f01d7e6316aedf4210da0da5b7437b42",
    ),
    "vesselmnist3d": Facts(
        "binary-class",
        ("vessel", "aneurysm"),
        "b41fd4f7e7e2feedddb201585ecafa1b",
        "6bb274a8846e1097066dcd64e2c4520f",
    ),
    "synapsemnist3d": Facts(
        "binary-class",
        ("inhibitory synapse", "excitatory synapse"),
        "1235b78a3cd6280881dd7850a78eadb6",
        "43bd14ebf3af9d3dd072446fedc14d5e",
    ),
}
