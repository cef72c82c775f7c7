"""The sets whose pixels are labelled."""

from __future__ import annotations

from attnbias.data.catalogue.multilabel import VOC2012
from attnbias.data.info import Archive, DatasetInfo

_BERKELEY = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/"
_ADE = "http://data.csail.mit.edu/places/ADEchallenge/"

ENTRIES: tuple[DatasetInfo, ...] = (
    DatasetInfo(
        name="voc12seg",
        title="VOC 2012, pixels",
        task="segmentation",
        classes=21,
        classes_note="with the background",
        splits=("train", "train_aug", "val"),
        train="train",
        val="val",
        acquisition="auto",
        citation="Everingham et al.: The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015",
        licence="Flickr's terms, research",
        size="2 GB",
        prepare="attnbias.data.sets.segmentation_sets:prepare_voc",
        layout="VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}; for --splits train_aug,val also SBD's "
        "benchmark_RELEASE/, or VOC2012/SegmentationClassAug/ with its list aug.txt",
        page="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        archives=(
            VOC2012,
            Archive(
                _BERKELEY + "benchmark.tgz",
                "benchmark.tgz",
                None,
                "md5",
                "82b4d87ceb2ed10f6038a1cba92111cb",
                split="train_aug",
            ),
        ),
        counts={"train": 1_464, "train_aug": 10_582, "val": 1_449},
    ),
    DatasetInfo(
        name="cityscapes",
        title="Cityscapes, pixels",
        task="segmentation",
        classes=19,
        splits=("train", "val"),
        train="train",
        val="val",
        acquisition="manual",
        citation="Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016",
        licence="account, non-commercial",
        size="12 GB",
        prepare="attnbias.data.sets.segmentation_sets:prepare_cityscapes",
        layout="leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/{train,val}/CITY/*_gtFine_labelIds.png "
        "(or *_gtFine_labelTrainIds.png)",
        page="https://www.cityscapes-dataset.com/downloads/",
        archives=(
            Archive("", "gtFine_trainvaltest.zip", None, "md5", "4237c19de34c8a376e9ba46b495d6f66"),
            Archive("", "leftImg8bit_trainvaltest.zip", None, "md5", "0a6e97e94b616a514066c9e2adb0c97f"),
        ),
        counts={"train": 2_975, "val": 500},
    ),
    DatasetInfo(
        name="ade20k",
        title="ADE20K, pixels",
        task="segmentation",
        classes=150,
        splits=("train", "val"),
        train="train",
        val="val",
        acquisition="auto",
        citation="Zhou et al.: Scene Parsing through ADE20K Dataset, CVPR 2017",
        licence="annotations BSD-3, images for research",
        size="1 GB",
        prepare="attnbias.data.sets.segmentation_sets:prepare_ade20k",
        layout="ADEChallengeData2016/{images,annotations}/{training,validation}/",
        page="http://sceneparsing.csail.mit.edu",
        archives=(
            Archive(
                _ADE + "ADEChallengeData2016.zip",
                "ADEChallengeData2016.zip",
                None,
                "sha1",
                "219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
            ),
        ),
        counts={"train": 20_210, "val": 2_000},
    ),
)
