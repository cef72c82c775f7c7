"""The sets of several labels per image."""

from __future__ import annotations

from dataclasses import replace

from attnbias.data.info import Archive, DatasetInfo

_COCO = "http://images.cocodataset.org/"
_VOC = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/"

COCO_TRAIN2014 = Archive(
    _COCO + "zips/train2014.zip",
    "train2014.zip",
    13_510_573_713,
    "sha256",
    "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
)
COCO_VAL2014 = Archive(
    _COCO + "zips/val2014.zip",
    "val2014.zip",
    6_645_013_297,
    "sha256",
    "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
)
VOC2012 = Archive(
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "VOCtrainval_11-May-2012.tar",
    None,
    "md5",
    "6cd6e144f989b92b3379bac3b3de84fd",
)

_COCO2014 = DatasetInfo(
    name="coco",
    title="MS-COCO 2014 layout",
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
    further_files="attnbias.data.csra_index:of_coco",
    layout="annotations/instances_{train,val}2014.json and images/{train2014,val2014}/",
    page="https://cocodataset.org",
    archives=(
        COCO_TRAIN2014,
        COCO_VAL2014,
        Archive(
            _COCO + "annotations/annotations_trainval2014.zip",
            "annotations_trainval2014.zip",
            252_872_794,
            "sha256",
            "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
        ),
    ),
    counts={"train": 82_783, "val": 40_504},
    settings={"masks": None},
)

ENTRIES: tuple[DatasetInfo, ...] = (
    _COCO2014,
    replace(
        _COCO2014,
        name="coco17",
        title="MS-COCO 2017",
        further_files="",
        layout="annotations/instances_{train,val}2017.json and images/{train2017,val2017}/",
        archives=(
            Archive(_COCO + "zips/train2017.zip", "train2017.zip"),
            Archive(_COCO + "zips/val2017.zip", "val2017.zip"),
            Archive(_COCO + "annotations/annotations_trainval2017.zip", "annotations_trainval2017.zip"),
        ),
        counts={"train": 118_287, "val": 5_000},
    ),
    DatasetInfo(
        name="voc07",
        title="PASCAL VOC 2007",
        task="multilabel",
        classes=20,
        class_names="attnbias.data.class_names:voc",
        splits=("trainval", "test"),
        train="trainval",
        val="test",
        acquisition="auto",
        citation="Everingham et al.: The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010",
        licence="Flickr's terms, research",
        size="0.9 GB",
        prepare="attnbias.data.sets.voc:prepare",
        further_files="attnbias.data.csra_index:of_voc",
        layout="VOC2007/{JPEGImages,Annotations,ImageSets/Main}, the test annotations merged in",
        page="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
        archives=(
            Archive(
                _VOC + "VOCtrainval_06-Nov-2007.tar",
                "VOCtrainval_06-Nov-2007.tar",
                None,
                "md5",
                "c52e279531787c972589f7e41ab4ae64",
            ),
            Archive(
                _VOC + "VOCtest_06-Nov-2007.tar",
                "VOCtest_06-Nov-2007.tar",
                None,
                "md5",
                "b6e924de25625d8de591ea690078ad9f",
            ),
        ),
        counts={"trainval": 5_011, "test": 4_952},
    ),
    DatasetInfo(
        name="voc12",
        title="PASCAL VOC 2012",
        task="multilabel",
        classes=20,
        class_names="attnbias.data.class_names:voc",
        splits=("train", "val"),
        train="train",
        val="val",
        acquisition="auto",
        citation="Everingham et al.: The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015",
        licence="Flickr's terms, research",
        size="2 GB",
        prepare="attnbias.data.sets.voc:prepare",
        layout="VOC2012/{JPEGImages,Annotations,ImageSets/Main}",
        page="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        archives=(VOC2012,),
        counts={"train": 5_717, "val": 5_823},
    ),
    DatasetInfo(
        name="wider",
        title="WIDER-Attribute",
        task="multilabel",
        classes=14,
        class_names="attnbias.data.class_names:wider",
        splits=("trainval", "test"),
        train="trainval",
        val="test",
        acquisition="manual",
        citation="Li, Huang, Loy, Tang: Human Attribute Recognition by Deep Hierarchical Contexts, ECCV 2016",
        licence="non-commercial research",
        size="4 GB",
        prepare="attnbias.data.sets.wider:prepare",
        further_files="attnbias.data.csra_index:of_wider",
        layout="Annotations/wider_attribute_{trainval,test}.json and Image/{train,val,test}/",
        page="http://mmlab.ie.cuhk.edu.hk/projects/WIDERAttribute.html",
        archives=(
            Archive(
                "http://mmlab.ie.cuhk.edu.hk/projects/WIDERAttribute_files/wider_attribute_annotation.zip",
                "wider_attribute_annotation.zip",
            ),
            Archive("https://drive.google.com/open?id=0B-PXtfvNMLanWEVCaHZnR0RHSlE", "wider_attribute_image.tgz"),
        ),
        counts={"trainval": 28_345, "test": 29_179},
    ),
    DatasetInfo(
        name="celeba",
        title="CelebA, aligned faces",
        task="multilabel",
        classes=40,
        classes_note="attributes; Male is the group too",
        splits=("train", "val", "test"),
        train="train",
        val="val",
        acquisition="manual",
        citation="Liu et al.: Deep Learning Face Attributes in the Wild, ICCV 2015",
        licence="non-commercial research",
        size="2 GB",
        prepare="attnbias.data.sets.grouped:prepare_celeba",
        layout=(
            "list_attr_celeba.txt, list_eval_partition.txt (or .csv, as tables), img_align_celeba/; or below Anno/, "
            "Eval/, Img/"
        ),
        page="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        counts={"train": 162_770, "val": 19_867, "test": 19_962},
    ),
)
