"""Corruptions of test images by name. Their strengths differ from those of CIFAR-10-C.

Nothing is imported here, because the report, which works without torch, needs them too.
"""

STRENGTHS = {  # kind -> meaning of its strength, strengths
    "noise": ("standard deviation of Gaussian noise, pixels in [0, 1]", (0.04, 0.08, 0.16)),
    "blur": ("standard deviation in pixels, kernel of 5 x 5", (0.5, 1.0, 1.5)),
    "contrast": ("remaining share of the distance to the image's mean grey", (0.6, 0.4, 0.2)),
    "jpeg": ("JPEG quality", (40, 20, 10)),
}
CORRUPTIONS = {
    f"{kind}_{1 + index}": (kind, strength)
    for kind, (_, strengths) in STRENGTHS.items()
    for index, strength in enumerate(strengths)
}
CLEAN = "clean images"  # label in figures; names of result folders have no blanks, so none is equal to it
