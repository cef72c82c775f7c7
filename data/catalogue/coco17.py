"""COCO 2017: the images of 2014 in other splits."""

from __future__ import annotations

from attnbias.data.info import Archive, DatasetInfo

_COCO = "http://images.cocodataset.org/"

ENTRIES = (
    DatasetInfo(
        name="coco17",
        title="MS-COCO 2017",
        task="multilabel",
        classes=80,
        classes_note="from the annotation file",
        class_names="attnbias.data.class_names:coco",
        splits=("train", "val"),
        train="train",
        val="val",
        acquisition="auto",
        citation="Lin et al.: Microsoft COCO: Common Objects in Context, ECCV 2014",
        licence="annotations CC BY 4.0; images under Flickr's terms",
        size="20 GB",
        prepare="attnbias.data.sets.coco:prepare",
        layout="annotations/instances_{train,val}2017.json and images/{train2017,val2017}/",
        page="https://cocodataset.org",
        archives=(
            Archive(_COCO + "zips/train2017.zip", "train2017.zip"),
            Archive(_COCO + "zips/val2017.zip", "val2017.zip"),
            Archive(_COCO + "annotations/annotations_trainval2017.zip", "annotations_trainval2017.zip"),
        ),
        counts={"train": 118_287, "val": 5_000},
        settings={"masks": None},
    ),
)
