"""Sets of images and texts: questions, statements, captions."""

from __future__ import annotations

from attnbias.data.catalogue.multilabel import COCO_TRAIN2014, COCO_VAL2014
from attnbias.data.info import Archive, DatasetInfo

_COCO = "http://images.cocodataset.org/"
_VQA = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa/"
_KARPATHY = Archive(
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip", "caption_datasets.zip"
)

ENTRIES: tuple[DatasetInfo, ...] = (
    DatasetInfo(
        name="vqav2",
        title="VQAv2, questions",
        task="vqa",
        classes=3129,
        classes_note="from the annotation files: --min-answers",
        splits=("trainval", "train2014", "val2014", "trainable", "rest_val", "test", "test-dev"),
        train="trainval",
        val="val2014",
        acquisition="auto",
        citation="Goyal et al.: Making the V in VQA Matter, CVPR 2017",
        licence="annotations CC BY 4.0; images under Flickr's terms",
        size="34 GB",
        prepare="attnbias.data.sets.vqa:prepare",
        layout="v2_OpenEnded_mscoco_{train2014,val2014,test2015,test-dev2015}_questions.json, "
        "v2_mscoco_{train2014,val2014}_annotations.json and train2014/, val2014/, test2015/ of images",
        page="https://visualqa.org/download.html",
        archives=(
            *(
                Archive(f"{_VQA}v2_{name}_mscoco.zip", f"v2_{name}_mscoco.zip")
                for name in (
                    "Questions_Train",
                    "Questions_Val",
                    "Questions_Test",
                    "Annotations_Train",
                    "Annotations_Val",
                )
            ),
            COCO_TRAIN2014,
            COCO_VAL2014,
            Archive(
                _COCO + "zips/test2015.zip",
                "test2015.zip",
                13_270_587_935,
                "sha256",
                "1a2aa896b81140a850a78fa8bff07d455698d2abf364ff05721763458a8101ca",
                split="test",
            ),
        ),
        counts={"test": 447_793},
        settings={"min_answers": 9},
    ),
    DatasetInfo(
        name="snli-ve",
        title="SNLI-VE, hypotheses",
        task="snli-ve",
        classes=3,
        splits=("train", "dev", "test"),
        train="train",
        val="dev",
        acquisition="manual",
        citation=(
            "Xie et al.: Visual Entailment: A Novel Task for Fine-Grained Image Understanding, arXiv 1901.06706, 2019"
        ),
        licence="BSD-3; images of Flickr30k: non-commercial research",
        size="5 GB",
        prepare="attnbias.data.sets.statements:prepare_snli_ve",
        layout="snli_ve_{train,dev,test}.jsonl and flickr30k-images/ (or Flickr30K/images/)",
        page="https://github.com/necla-ml/SNLI-VE",
        counts={"train": 529_527, "dev": 17_858, "test": 17_901},
    ),
    DatasetInfo(
        name="nlvr2",
        title="NLVR2, statements",
        task="nlvr2",
        classes=2,
        splits=(*("train", "dev", "test1", "balanced_dev", "balanced_test1", "unbalanced_dev", "unbalanced_test1"),),
        train="train",
        val="dev",
        acquisition="manual",
        citation="Suhr et al.: A Corpus for Reasoning about Natural Language Grounded in Photographs, ACL 2019",
        licence="research",
        size="20 GB",
        prepare="attnbias.data.sets.statements:prepare_nlvr2",
        layout="nlvr2/data/{train,dev,test1}.json, images/train/{0..99}/, dev/ and test1/",
        page="https://lil.nlp.cornell.edu/nlvr/",
        counts={"train": 86_373, "dev": 6_982, "test1": 6_967},
    ),
    DatasetInfo(
        name="flickr30k",
        title="Flickr30k, captions",
        task="retrieval",
        classes=None,
        splits=("trainval", "karpathy-train", "karpathy-val", "test"),
        train="trainval",
        val="test",
        acquisition="manual",
        citation="Young et al.: From Image Descriptions to Visual Denotations, TACL 2014",
        licence="non-commercial research",
        size="5 GB",
        prepare="attnbias.data.sets.captions:prepare",
        layout="dataset_flickr30k.json (Karpathy's splits) and flickr30k-images/",
        page="https://shannon.cs.illinois.edu/DenotationGraph/",
        archives=(Archive("", "flickr30k-images.tar"), _KARPATHY),
        counts={"trainval": 150_070, "karpathy-train": 145_000, "karpathy-val": 5_070, "test": 5_000},
    ),
    DatasetInfo(
        name="coco-captions",
        title="COCO, captions",
        task="retrieval",
        classes=None,
        splits=("trainrestval", "karpathy-train", "karpathy-val", "restval", "test"),
        train="trainrestval",
        val="test",
        acquisition="auto",
        citation="Chen et al.: Microsoft COCO Captions: Data Collection and Evaluation Server, arXiv 1504.00325, 2015",
        licence="annotations CC BY 4.0; images under Flickr's terms",
        size="20 GB",
        prepare="attnbias.data.sets.captions:prepare",
        layout="dataset_coco.json (Karpathy's splits), train2014/ and val2014/ of images",
        page="https://cocodataset.org",
        archives=(_KARPATHY, COCO_TRAIN2014, COCO_VAL2014),
        counts={
            **{"trainrestval": 566_747, "karpathy-train": 414_113, "karpathy-val": 25_010},
            **{"restval": 152_634, "test": 25_010},
        },
    ),
    DatasetInfo(
        name="sbu",
        title="SBU captions",
        task="retrieval",
        classes=None,
        splits=("train",),
        train="train",
        val="train",
        acquisition="manual",
        citation="Ordonez, Kulkarni, Berg: Im2Text: Describing Images Using 1 Million Captioned Photographs, NIPS 2011",
        licence="images under Flickr's terms",
        size="150 GB",
        prepare="attnbias.data.sets.captions:prepare_annotated",
        layout="annot.json, a list of [image, caption], and images_train/{0000..}/ of images",
        page="https://www.cs.rice.edu/~vo9/sbucaptions/",
    ),
    DatasetInfo(
        name="cc3m",
        title="Conceptual Captions",
        task="retrieval",
        classes=None,
        splits=("train", "val"),
        train="train",
        val="val",
        acquisition="manual",
        citation="Sharma et al.: Conceptual Captions: A Cleaned, Hypernymed, Image Alt-text Dataset, ACL 2018",
        licence="captions free; images under their owners' terms",
        size="500 GB",
        prepare="attnbias.data.sets.captions:prepare_annotated",
        layout="{train,val}_annot.json, lists of [image, caption], and images_{train,val}/{0000..}/ of images",
        page="https://ai.google.com/research/ConceptualCaptions/",
    ),
)
