"""Corruptions of test images by name. Nothing is imported here: the report, which has no torch, needs them
too. The strengths are this project's own, not those of CIFAR-10-C."""

STRENGTHS = {  # kind -> what its strength is, strengths
    "noise": ("standard deviation of Gaussian noise, pixels in [0, 1]", (0.04, 0.08, 0.16)),
    "blur": ("standard deviation in pixels, kernel of 5 x 5", (0.5, 1.0, 1.5)),
    "contrast": ("what is left of the distance to the image's mean grey", (0.6, 0.4, 0.2)),
    "jpeg": ("JPEG quality", (40, 20, 10)),
}
CORRUPTIONS = {
    f"{kind}_{1 + i}": (kind, by) for kind, (_, all_) in STRENGTHS.items() for i, by in enumerate(all_)
}
CLEAN = "clean images"  # in figures; no folder of results has a blank in its name
