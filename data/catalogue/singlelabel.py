"""The sets of one label an image, but for the robustness sets of ImageNet."""

from __future__ import annotations

from attnbias.data.info import Archive, DatasetInfo

_PLACES = "http://data.csail.mit.edu/places/places365/"
_INAT = "https://ml-inat-competition-datasets.s3.amazonaws.com/"
_TORONTO = "https://www.cs.toronto.edu/~kriz/"
IMAGENET9 = ("original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t")


def _small(
    name: str,
    title: str,
    *,
    classes: int,
    class_names: str = "",
    citation: str,
    licence: str,
    size: str,
    page: str,
    url: str,
    md5: str,
    counts: tuple[int, int],
) -> DatasetInfo:
    """A set of small images of one size, read out of its one archive; `counts` are of train and test."""
    file = url.rsplit("/", 1)[1]
    return DatasetInfo(
        name=name,
        title=title,
        task="singlelabel",
        classes=classes,
        class_names=class_names,
        splits=("train", "test"),
        train="train",
        val="test",
        acquisition="auto",
        citation=citation,
        licence=licence,
        size=size,
        prepare="attnbias.data.sets.cifar:prepare",
        layout=f"{file}, or train/CLASS/ and test/CLASS/ of images",
        page=page,
        archives=(Archive(url, file, None, "md5", md5),),
        unpack=False,
        counts=dict(zip(("train", "test"), counts, strict=True)),
    )


def _inaturalist(
    year: int,
    *,
    classes: int,
    size: str,
    digests: tuple[str | None, str | None, str | None],
    counts: tuple[int, int],
) -> DatasetInfo:
    """A year of iNaturalist's competition; `digests` are of the images and of both files of annotations."""
    files = (f"train_val{year}.tar.gz", f"train{year}.json.tar.gz", f"val{year}.json.tar.gz")
    return DatasetInfo(
        name=f"inat{year}",
        title=f"iNaturalist {year}",
        task="singlelabel",
        classes=classes,
        classes_note="species; fewer by --level",
        splits=("train", "val"),
        train="train",
        val="val",
        acquisition="auto",
        citation="Van Horn et al.: The iNaturalist Species Classification and Detection Dataset, CVPR 2018",
        licence="non-commercial research",
        size=size,
        prepare="attnbias.data.sets.inaturalist:prepare",
        layout=f"train{year}.json, val{year}.json and train_val{year}/; categories.json for names and --level",
        page=f"https://github.com/visipedia/inat_comp/tree/master/{year}",
        archives=(
            *(
                Archive(f"{_INAT}{year}/{file}", file, None, "md5" if digest else None, digest)
                for file, digest in zip(files, digests, strict=True)
            ),
            Archive(f"{_INAT}{year}/categories.json.tar.gz", "categories.json.tar.gz"),
        ),
        counts=dict(zip(("train", "val"), counts, strict=True)),
        settings={"level": None},
    )


ENTRIES: tuple[DatasetInfo, ...] = (
    *(
        _small(
            f"cifar{classes}",
            f"CIFAR-{classes}, 32 pixels",
            classes=classes,
            class_names=class_names,
            citation="Krizhevsky: Learning Multiple Layers of Features from Tiny Images, University of Toronto 2009",
            licence="none stated",
            size="0.2 GB",
            page=f"{_TORONTO}cifar.html",
            url=f"{_TORONTO}cifar-{classes}-python.tar.gz",
            md5=md5,
            counts=(50_000, 10_000),
        )
        for classes, class_names, md5 in (
            (10, "attnbias.data.class_names:cifar10", "c58f30108f718f92721af3b95e74349a"),
            (100, "", "eb9058c3a382ffc7106e4002c42a8d85"),
        )
    ),
    _small(
        "stl10",
        "STL-10, 96 pixels",
        classes=10,
        class_names="attnbias.data.class_names:stl10",
        citation=(
            "Coates, Ng, Lee: An Analysis of Single-Layer Networks in Unsupervised Feature Learning, AISTATS 2011"
        ),
        licence="ImageNet's terms: non-commercial",
        size="2.7 GB",
        page="https://cs.stanford.edu/~acoates/stl10/",
        url="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
        md5="91f7769df0f17e558f3565bffb0c7dfb",
        counts=(5_000, 8_000),
    ),
    DatasetInfo(
        name="imagenet",
        title="ImageNet-1k",
        task="singlelabel",
        classes=1000,
        class_names="attnbias.data.class_names:imagenet",
        splits=("train", "val"),
        train="train",
        val="val",
        acquisition="manual",
        citation="Russakovsky et al.: ImageNet Large Scale Visual Recognition Challenge, IJCV 2015",
        licence="account, non-commercial research",
        size="155 GB",
        prepare="attnbias.data.sets.imagenet:prepare",
        layout="train/SYNSET/ and val/SYNSET/ of images",
        page="https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
        archives=(
            Archive(
                "",
                "ILSVRC2012_img_train.tar",
                147_897_477_120,
                "sha256",
                "b08200a27a8e34218a0e58fde36b0fe8f73bc377f4acea2d91602057c3ca45bb",
                into="train",
                nested=True,
            ),
            Archive(
                "",
                "ILSVRC2012_img_val.tar",
                6_744_924_160,
                "sha256",
                "c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0",
                into="val",
            ),
            Archive("", "ILSVRC2012_devkit_t12.tar.gz", None, "md5", "fa75699e90414af021442c21a62c3abf"),
        ),
        counts={"train": 1_281_167, "val": 50_000},
    ),
    DatasetInfo(
        name="places365",
        title="Places365, 256 pixels",
        task="singlelabel",
        classes=365,
        splits=("train", "val"),
        train="train",
        val="val",
        acquisition="auto",
        citation="Zhou et al.: Places: A 10 Million Image Database for Scene Recognition, TPAMI 2018",
        licence="non-commercial research",
        size="25 GB",
        prepare="attnbias.data.sets.places:prepare",
        layout="the official lists with data_256/ and val_256/, or train/CLASS/ and val/CLASS/ of images",
        page="http://places2.csail.mit.edu/download.html",
        archives=tuple(
            Archive(_PLACES + file, file, None, "md5", digest)
            for file, digest in (
                ("train_256_places365standard.tar", "53ca1c756c3d1e7809517cc47c5561c5"),
                ("val_256.tar", "e27b17d8d44f4af9a78502beb927f808"),
                ("filelist_places365-standard.tar", "35a0585fee1fa656440f3ab298f8479c"),
            )
        ),
        counts={"train": 1_803_460, "val": 36_500},
    ),
    _inaturalist(
        2018,
        classes=8142,
        size="120 GB",
        digests=("b1c6952ce38f31868cc50ea72d066cc3", None, None),
        counts=(437_513, 24_426),
    ),
    _inaturalist(
        2019,
        classes=1010,
        size="75 GB",
        digests=(
            "c60a6e2962c9b8ccbd458d12c8582644",
            "b06a6683537867c0d5c7a45f407a306d",
            "5cc5509b0fe495f1c8c1362612448497",
        ),
        counts=(265_213, 3_030),
    ),
    DatasetInfo(
        name="waterbirds",
        title="Waterbirds",
        task="singlelabel",
        classes=2,
        classes_note="each on land or water, the group",
        splits=("train", "val", "test"),
        train="train",
        val="val",
        acquisition="auto",
        citation=(
            "Sagawa et al.: Distributionally Robust Neural Networks for Group Shifts: On the Importance of "
            "Regularization for Worst-Case Generalization, ICLR 2020"
        ),
        licence="made of CUB-200-2011 and Places: non-commercial research",
        size="1 GB",
        prepare="attnbias.data.sets.grouped:prepare_waterbirds",
        layout="metadata.csv and the folders of images that it names, or waterbird_complete95_forest2water2/ of both",
        page="https://github.com/kohpangwei/group_DRO",
        archives=(
            Archive(
                "https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz",
                "waterbird_complete95_forest2water2.tar.gz",
            ),
        ),
        counts={"train": 4_795, "val": 1_199, "test": 5_794},
    ),
    DatasetInfo(
        name="urbancars",
        title="UrbanCars",
        task="singlelabel",
        classes=2,
        classes_note="background and object are the group",
        splits=("train", "val", "test"),
        train="train",
        val="val",
        acquisition="manual",
        citation=(
            "Li et al.: A Whac-A-Mole Dilemma: Shortcuts Come in Multiples Where Mitigating One Amplifies Others, "
            "CVPR 2023"
        ),
        licence="made of Stanford Cars, Places and LVIS, under their terms",
        size="2 GB",
        prepare="attnbias.data.sets.grouped:prepare_urbancars",
        layout=(
            "bg-0.95_co_occur_obj-0.95/train/ and bg-0.5_co_occur_obj-0.5/{val,test}/, of "
            "obj-PLACE_bg-PLACE_co_occur_obj-PLACE/ of images"
        ),
        page="https://github.com/facebookresearch/Whac-A-Mole",
    ),
    DatasetInfo(
        name="imagenet9",
        title="ImageNet-9",
        task="singlelabel",
        classes=9,
        classes_note="a split for each variant",
        splits=IMAGENET9,
        train=None,
        val="original",
        acquisition="manual",
        citation="Xiao et al.: Noise or Signal: The Role of Image Backgrounds in Object Recognition, ICLR 2021",
        licence="images under ImageNet's terms",
        size="1 GB",
        prepare="attnbias.data.sets.grouped:prepare_imagenet9",
        layout="bg_challenge/VARIANT/val/CLASS/ of images",
        page="https://github.com/MadryLab/backgrounds_challenge",
        counts=dict.fromkeys(IMAGENET9, 4_050),
    ),
)
