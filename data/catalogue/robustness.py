"""The sets made to test what was trained on ImageNet: corrupted, adversarial, rendered and sketched images."""

from __future__ import annotations

from attnbias.data.info import Archive, DatasetInfo

_BERKELEY = "https://people.eecs.berkeley.edu/~hendrycks/"
_ZENODO = "https://zenodo.org/record/2235448/files/"
_CORRUPTIONS = (
    *("brightness", "contrast", "defocus_blur", "elastic_transform", "fog", "frost", "gaussian_noise", "glass_blur"),
    *("impulse_noise", "jpeg_compression", "motion_blur", "pixelate", "shot_noise", "snow", "zoom_blur"),
)


def _renditions(
    name: str, title: str, *, citation: str, size: str, page: str, length: int, sha256: str, count: int
) -> DatasetInfo:
    """A set of Hendrycks's with 200 of ImageNet's classes, in one archive of `length` bytes."""
    return DatasetInfo(
        name=name,
        title=title,
        task="singlelabel",
        classes=1000,
        classes_note="200 of them occur",
        splits=("val",),
        train=None,
        val="val",
        subset=True,
        acquisition="auto",
        citation=citation,
        licence="images under their owners' terms",
        size=size,
        prepare="attnbias.data.sets.imagenet:prepare_renditions",
        layout=f"{name}/SYNSET/ of images",
        page=page,
        archives=(Archive(f"{_BERKELEY}{name}.tar", f"{name}.tar", length, "sha256", sha256),),
        counts={"val": count},
    )


ENTRIES: tuple[DatasetInfo, ...] = (
    DatasetInfo(
        name="imagenet-c",
        title="ImageNet-C, corrupted",
        task="singlelabel",
        classes=1000,
        classes_note="15 corruptions in 5 severities, a split each",
        splits=tuple(f"{corruption}-{severity}" for corruption in _CORRUPTIONS for severity in range(1, 6)),
        train=None,
        val="brightness-1",
        precropped=True,
        acquisition="auto",
        citation=(
            "Hendrycks, Dietterich: Benchmarking Neural Network Robustness to Common Corruptions and "
            "Perturbations, ICLR 2019"
        ),
        licence="CC BY 4.0, images under ImageNet's terms",
        size="75 GB",
        prepare="attnbias.data.sets.imagenet:prepare_corruptions",
        layout="CORRUPTION/{1..5}/SYNSET/ of images, perhaps below blur/ digital/ noise/ weather/",
        page="https://zenodo.org/record/2235448",
        archives=tuple(
            Archive(f"{_ZENODO}{group}.tar", f"{group}.tar", None, "md5", digest)
            for group, digest in (
                ("blur", "2d8e81fdd8e07fef67b9334fa635e45c"),
                ("digital", "89157860d7b10d5797849337ca2e5c03"),
                ("noise", "e80562d7f6c3f8834afb1ecf27252745"),
                ("weather", "33ffea4db4d93fe4a428c40a6ce0c25d"),
            )
        ),
        counts={f"{corruption}-{severity}": 50_000 for corruption in _CORRUPTIONS for severity in range(1, 6)},
    ),
    _renditions(
        "imagenet-a",
        "ImageNet-A, hard",
        citation="Hendrycks et al.: Natural Adversarial Examples, CVPR 2021",
        size="0.7 GB",
        page="https://github.com/hendrycks/natural-adv-examples",
        length=687_552_512,
        sha256="3bb3632277e6ba6392ea64c02ddbf4dd2266c9caffd6bc09c9656d28f012589e",
        count=7_500,
    ),
    _renditions(
        "imagenet-r",
        "ImageNet-R, drawn",
        citation="Hendrycks et al.: The Many Faces of Robustness, ICCV 2021",
        size="2.2 GB",
        page="https://github.com/hendrycks/imagenet-r",
        length=2_191_079_936,
        sha256="18c6bf493b39a0d975d48e587437f562caab9c52ae6327dcfa9dd8eb54aa1b52",
        count=30_000,
    ),
    DatasetInfo(
        name="imagenet-sketch",
        title="ImageNet-Sketch",
        task="singlelabel",
        classes=1000,
        splits=("val",),
        train=None,
        val="val",
        acquisition="manual",
        citation=(
            "Wang et al.: Learning Robust Global Representations by Penalizing Local Predictive Power, NeurIPS 2019"
        ),
        licence="research",
        size="7 GB",
        prepare="attnbias.data.sets.imagenet:prepare_renditions",
        layout="sketch/SYNSET/ of images",
        page="https://github.com/HaohanWang/ImageNet-Sketch",
        archives=(
            Archive("https://drive.google.com/open?id=1Mj0i5HBthqH1p_yeXzsg22gZduvgoNeA", "ImageNet-Sketch.zip"),
        ),
        counts={"val": 50_889},
    ),
)
