"""The published weights that the papers and their backbones need: names, links, sizes, checksums, licences.

Plain values, imported by listings and completion. Nothing here fetches: `--load-from` and `--backbone-weights` take
these names (methods/engine/published.py), and `attnbias weights fetch` brings them to the cache (weights/cache.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Published:
    """One published file."""

    name: str
    url: str
    """A direct link, hf://ORGANISATION/REPOSITORY/FILE, or the page of a form that only a browser gets past."""
    file: str
    """Its name in the cache."""
    methods: tuple[str, ...]
    """Who can load it."""
    licence: str
    recipe: str = ""
    """The named recipe that a whole model was trained by; empty: these are weights of a backbone."""
    megabytes: float | None = None
    """About: 10**6 bytes, or computed from the number of parameters."""
    algorithm: Literal["md5", "sha256"] | None = None
    digest: str | None = None
    """The checksum, or its beginning where no more of it is published; without one the first fetch is recorded."""
    paper: Mapping[str, float] = field(default_factory=dict)
    """Measures that its authors report for this very file."""
    browser: bool = False
    """The link is a form (Google Drive's): a person fetches the file and puts it into the cache."""
    refused: str = ""
    """Why it does not load, where it does not."""
    starts: tuple[str, ...] = ()
    """Further methods, whose backbone starts from it."""

    @property
    def option(self) -> str:
        """What it is given to."""
        return "--load-from" if self.recipe else "--backbone-weights"


CONVOLUTIONAL = ("csra", "ida", "plain")
"""Methods whose heads sit on any backbone of torchvision or timm."""
DENSE, LANGUAGE = ("absvit-segmentation",), "absvit-vision-language"
"""Methods of AbSViT's paper, whose backbones start from its ImageNet models."""
TORCHVISION = "BSD-3-Clause (torchvision; trained on ImageNet)"
META_NC = "CC BY-NC 4.0"
APACHE = "Apache-2.0"
META = "https://dl.fbaipublicfiles.com/"


def _torchvision(
    name: str, file: str, megabytes: float, methods: tuple[str, ...], top1: float, licence: str
) -> Published:
    url = f"https://download.pytorch.org/models/{file}"
    return _hashed(name, url, methods, licence, megabytes, {"top1": top1} if top1 else {})


def _hashed(
    name: str, url: str, methods: tuple[str, ...], licence: str, megabytes: float, paper: Mapping[str, float]
) -> Published:
    """A file whose name ends in the first eight digits of its SHA-256, as torch.hub wants it."""
    file = PurePosixPath(url).name
    digest = file.rsplit("-", 1)[1].split(".")[0]
    return Published(name, url, file, methods, licence, "", megabytes, "sha256", digest, paper)


def _resnets() -> list[Published]:
    methods = (*CONVOLUTIONAL, "lsas")
    current = (
        ("resnet18-v1", "resnet18-f37072fd.pth", 46.8, 69.758),
        ("resnet34-v1", "resnet34-b627a593.pth", 87.3, 73.314),
        ("resnet50-v1", "resnet50-0676ba61.pth", 102.5, 76.13),
        ("resnet101-v1", "resnet101-63fe2227.pth", 178.8, 77.374),
        ("resnet152-v1", "resnet152-394f9c45.pth", 241.6, 78.312),
        ("resnet50-v2", "resnet50-11ad3fa6.pth", 102.5, 80.858),
        ("resnet101-v2", "resnet101-cd907fc2.pth", 178.8, 81.886),
        ("resnet152-v2", "resnet152-f82ba261.pth", 241.7, 82.284),
    )
    # The same V1 training in the container that CSRA's program names: without num_batches_tracked.
    first = (
        ("resnet18-first", "resnet18-5c106cde.pth", 46.8, 69.758),
        ("resnet34-first", "resnet34-333f7ec4.pth", 87.3, 73.314),
        ("resnet50-first", "resnet50-19c8e357.pth", 102.5, 76.13),
        ("resnet101-first", "resnet101-5d3b4d8f.pth", 178.7, 77.374),
        ("resnet152-first", "resnet152-b121ed2d.pth", 241.5, 78.312),
    )
    return [_torchvision(n, file, size, methods, top1, TORCHVISION) for n, file, size, top1 in (*current, *first)]


def _csra() -> list[Published]:
    """CSRA's checkpoints and its CutMix backbone: Google Drive, no checksums; file names are ours to choose."""
    models = (
        ("voc07-resnet101", "1cQSRI_DWyKpLa0tvxltoH9rM4IZMIEWJ", "resnet101_voc07_head1_lam0.1_94.7.pth", 170, 94.7),
        ("voc07-resnetcut", "1bzSsWhGG-zUNQRMB7rQCuPMqLZjnrzFh", "resnetcut_voc07_head1_95.2.pth", 170, 95.2),
        ("voc07-resnetcut-extra", "1XgVE3Q3vmE8hjdDjqow_2GyjPx_5bDjU", "resnetcut_voc07_head1_96.8.pth", 170, 96.8),
        ("coco-resnet101", "1e_WzdVgF_sQc--ubN-DRnGVbbJGSJEZa", "resnet101_coco_head4_83.3.pth", 173, 83.3),
        ("coco-resnetcut", "17FgLUe_vr5sJX6_TT-MPdP5TYYAcVEPF", "resnetcut_coco_head6_85.6.pth", 174, 85.6),
        ("coco-vitl", "1TTzCpRadhYDwZSEow3OVdrh1TKezWHF_", "vitl_coco_head8_86.5.pth", 1216, 86.5),
        ("coco-vitl-v2", "1zYE88pmWcZfcrdQsP8-9JMo4n_g5pO4l", "vitl_coco_head8_86.9.pth", 1219, 86.9),
        ("wider-vitb", "1qkJgWQ2EOYri8ITLth_wgnR4kEsv0bfj", "vitb_wider_head1_89.0.pth", 343, 89.0),
        ("wider-vitl", "1da8D7UP9cMCgKO0bb1gyRvVqYoZ3Wh7O", "vitl_wider_head1_90.2.pth", 1213, 90.2),
    )
    licence = "AGPL-3.0 (that of its repository)"
    strange = (
        "a user of its program reports heads head1 to head8 with biases in it (issue 18 there), which no version of "
        "that program has, so that it is not known what they compute"
    )
    found = [
        Published(
            f"csra-{recipe}",
            f"https://drive.google.com/file/d/{drive}/view",
            file,
            ("csra",),
            licence,
            recipe,
            size,
            paper={"mAP": figure},
            browser=True,
            refused=strange if recipe.startswith("coco-vitl") else "",
        )
        for recipe, drive, file, size, figure in models
    ]
    drive = "https://drive.google.com/file/d/1T4AxsAO2tszvhn62KFN5kaknBtBZIpDV/view"
    methods = (*CONVOLUTIONAL, "lsas")
    return [
        *found,
        Published(
            "resnet101-cutmix",
            drive,
            "resnet101_cutmix_pretrained.pth",
            methods,
            licence,
            megabytes=178.8,
            browser=True,
        ),
    ]


def _absvit() -> list[Published]:
    """AbSViT's models: training dictionaries (weights, average, optimiser), about four times the parameters."""
    static = "https://berkeley.box.com/shared/static/"
    models = (
        ("absvit-tiny", "0n2tvn9hmx7bwv097nwb60vw1jf4841n.pth", 106, (74.1, 66.7)),
        ("absvit-small", "3wpkf5qo31ghb4dzehczup4pfh24xmve.pth", 409, (80.7, 51.6)),
        ("absvit-base", "aain2svhs9lfvz8o21xao91dsnylgsot.pth", 1612, (81.0, 48.3)),
        ("vit-tiny", "mw99ywof7ri7kczq79iwjia2att2dpmh.pth", 91, (72.5, 71.1)),
        ("vit-small", "tftkkov22978lmvgv1g1cxuuk62iacn7.pth", 353, (80.1, 54.6)),
        ("vit-base", "6fszey9291pvnkwdpt5ngrhh0rcu1iqu.pth", 1385, (80.8, 49.3)),
        ("absvit-figures", "7415yz4d1l5z0ur6x32k35f8y99zgynq.pth", 101, ()),
        ("vit-figures", "zzy0bl6b59q05a3hobbehqeuhg5u1mhk.pth", 87.5, ()),
    )
    licence = "none stated"
    found = [
        Published(
            recipe,
            static + file,
            file,
            ("absvit",),
            licence,
            recipe,
            size,
            paper=dict(zip(("top1", "mCE"), figures, strict=False)),
            starts=() if recipe.endswith("figures") else DENSE if recipe.startswith("absvit") else (*DENSE, LANGUAGE),
        )
        for recipe, file, size, figures in models
    ]
    vision = "ejf7a2vnzg8pmwty0ih4temm2vgw14u5.pth"
    return [
        *found,
        Published("absvit-base-vl", static + vision, vision, (LANGUAGE,), licence, megabytes=403),
        Published(
            "absvit-vqa",
            f"{static}yv1cqa7ydhrh31dxz97yaykxqbq40wpl.ckpt",
            "yv1cqa7ydhrh31dxz97yaykxqbq40wpl.ckpt",
            (LANGUAGE,),
            licence,
            "vqa",
        ),
    ]


def _deit() -> list[Published]:
    methods = ("absvit", "absvit-segmentation", *CONVOLUTIONAL)
    models = (("tiny", "a1311bcf", 22.9), ("small", "cd65a155", 88.2), ("base", "b5f2ef4d", 346.3))
    return [
        _hashed(
            f"deit_{size}_patch16_224",
            f"{META}deit/deit_{size}_patch16_224-{digest}.pth",
            methods,
            APACHE,
            megabytes,
            {},
        )
        for size, digest, megabytes in models
    ]


def _vits() -> list[Published]:
    """Vision transformers of timm: those of CSRA's program, and augreg."""
    jx = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vitjx/"
    augreg = (("tiny", 22.9), ("small", 88.2), ("base", 346.3), ("large", 1217.3))
    return [
        _hashed("jx_vit_base_p16_224", f"{jx}jx_vit_base_p16_224-80ecf9dd.pth", CONVOLUTIONAL, APACHE, 346.3, {}),
        _hashed("jx_vit_large_p16_224", f"{jx}jx_vit_large_p16_224-4ee7a4dc.pth", CONVOLUTIONAL, APACHE, 1217.3, {}),
        *(
            Published(
                name := f"vit_{size}_patch16_224.augreg_in21k_ft_in1k",
                f"hf://timm/{name}/model.safetensors",
                "model.safetensors",
                ("llb", *CONVOLUTIONAL),
                APACHE,
                megabytes=megabytes,
            )
            for size, megabytes in augreg
        ),
    ]


def _mae() -> list[Published]:
    finetuned = (("base", "1b25e9", 346.3), ("large", "51f550", 1217.3))
    pretrained = (("base", 343.2), ("large", 1213.2))
    return [
        *(
            Published(
                f"mae_finetuned_vit_{size}",
                f"{META}mae/finetune/mae_finetuned_vit_{size}.pth",
                f"mae_finetuned_vit_{size}.pth",
                ("llb",),
                META_NC,
                "",
                megabytes,
                "md5",
                digest,
            )
            for size, digest, megabytes in finetuned
        ),
        *(
            Published(
                f"mae_pretrain_vit_{size}",
                f"{META}mae/pretrain/mae_pretrain_vit_{size}.pth",
                f"mae_pretrain_vit_{size}.pth",
                CONVOLUTIONAL,
                META_NC,
                megabytes=megabytes,
            )
            for size, megabytes in pretrained
        ),
    ]


def _swag() -> list[Published]:
    """SWAG's own files, and those that torchvision made of them."""
    own = (("vit_b16", 347.4), ("vit_l16", 1220.7))
    torchvision = (
        ("vit_b_16_swag", "vit_b_16_swag-9ac1b537.pth", 347.5, 85.304),
        ("vit_l_16_swag", "vit_l_16_swag-4f3808c9.pth", 1220.8, 88.064),
        ("vit_b_16_lc_swag", "vit_b_16_lc_swag-4e70ced5.pth", 346.3, 81.886),
        ("vit_l_16_lc_swag", "vit_l_16_lc_swag-4d563306.pth", 1217.4, 85.146),
    )
    return [
        *(
            Published(
                f"swag_{size}_in1k",
                f"{META}SWAG/{size}_in1k.torch",
                f"{size}_in1k.torch",
                ("llb",),
                META_NC,
                megabytes=megabytes,
            )
            for size, megabytes in own
        ),
        *(_torchvision(n, file, size, ("llb",), top1, META_NC) for n, file, size, top1 in torchvision),
    ]


def _swin() -> list[Published]:
    folder = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
    models = (
        ("base_patch4_window12_384_22k", 450),
        ("large_patch4_window12_384_22k", 929),
        ("large_patch4_window12_384_22kto1k", 801),
    )
    return [
        Published(
            f"swin_{name}",
            f"{folder}swin_{name}.pth",
            f"swin_{name}.pth",
            CONVOLUTIONAL,
            "MIT",
            megabytes=megabytes,
        )
        for name, megabytes in models
    ]


PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        entry.name: entry
        for entries in (_csra(), _absvit(), _resnets(), _deit(), _vits(), _mae(), _swag(), _swin())
        for entry in entries
    }
)
