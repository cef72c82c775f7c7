"""What is typed wrong gives one clear line and the right exit code, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attnbias.cli.errors import describe
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.requests import PredictRequest
from tests.helpers.command_line import attnbias


@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        ("tran csra", 2, "did you mean 'train'"),
        ("train csr", 2, "did you mean 'csra'"),
        (
            "val --load-from x",
            2,
            "no such option --load-from before METHOD; options of one stand behind it: attnbias val",
        ),
        ("val csar --load-from x", 2, "unknown method 'csar' (did you mean 'csra'?); one of: absvit, "),
        ("list recipes lsa", 2, "did you mean 'lsas'"),
        ("train csra extra", 2, "(extra)"),
        ("train csra --recipe coco-resnet102", 2, "did you mean 'coco-resnet101'?); see: attnbias list recipes csra"),
        ("train csra --recipe mine.yaml", 2, "mine.yaml: No such file"),
        ("train csra --num-head 4", 2, "did you mean '--num-heads'?); see: attnbias train csra --help"),
        ("train csra --epochs 0", 2, "'epochs' = 0: Input should be greater than or equal to 1"),
        ("train csra --epochs many", 2, "'--epochs'"),
        ("train csra --dataset=", 2, "--dataset is empty; give it a value, or leave it out"),
        ("train csra --lr 1 --lr 2", 2, "--lr is typed 2 times; keep one of them; see: attnbias train csra --help"),
        ("train csra --recipe demo --num-heads 4 --num-heads=6", 2, "--num-heads is typed 2 times"),
        ("train absvit --task vqa --task segmentation", 2, "--task is typed 2 times"),
        ("train csra --load-from a --load-from=b", 2, "--load-from is typed 2 times"),
        ("val csra --load-from x --split a --split b", 2, "--split is typed 2 times"),
        ("val csra --load-from x --flip --no-flip", 2, "--flip/--no-flip is typed 2 times"),
        ("predict --load-from x photo.jpg --lam 0.1 --lam 0.2", 2, "--lam is typed 2 times"),
        ("predict --method csra --method ida --load-from x photo.jpg", 2, "--method is typed 2 times"),
        ("prepare-data demo --root a --data-root b", 2, "--data-root is typed 2 times"),
        ("weights convert a --to b --to c", 2, "--to is typed 2 times"),
        ("compare a --measure b --measure c", 3, "a is not a run folder"),  # a list: as often as one likes
        ("predict --load-from x --overwrite --overwrite y", 2, "no file or folder y"),  # says the same twice
        ("train csra --lr 0", 2, "'lr' = 0.0: Input should be greater than 0"),
        ("train csra --lr nan", 2, "'lr' = nan"),
        ("train csra --momentum 1", 2, "'momentum' = 1.0: Input should be less than 1"),
        ("train csra --num-heads 3", 2, "1, 2, 4, 6 or 8"),
        ("train csra --temperatures 1,0", 2, "'temperatures' = (1.0, 0.0): expected positive numbers"),
        ("train csra --temperatures 1,two", 2, "'1,two' is not float,...|none"),
        ("train csra --normalize imagnet", 2, "'unit', 'half', 'imagenet', 'cifar'"),
        ("train csra --accumulation 0", 2, "'--accumulation'"),
        ("train csra --gpus 0 --dataset cocoo", 3, "unknown dataset 'cocoo' (did you mean 'coco'?)"),
        ("train csra --gpus 0", 3, "not prepared in datasets/coco; run: attnbias prepare-data coco --download"),
        ("train csra --gpus 0 --dataset wider", 3, "run: attnbias prepare-data wider --source DIR"),
        ("prepare-data cocoo", 2, "unknown dataset 'cocoo' (did you mean 'coco'?); see: attnbias list datasets"),
        ("prepare-data ./mine", 2, "./mine does not exist; name a folder, .csv or COCO .json of yours, or a dataset"),
        ("prepare-data mine.csv", 2, "mine.csv does not exist; name a folder"),
        ("prepare-data demo --preset hardest", 2, "'easy', 'medium', 'hard', 'even'"),
        ("prepare-data coco --source nowhere", 3, "nowhere does not exist"),
        ("val csra", 2, "'--load-from'; see: attnbias val csra --help"),
        ("val csra --load-from x --split=", 2, "--split is empty"),
        ("val csra --load-from x --split ,", 2, "it names nothing"),
        ("val csra --load-from x --corrupt fog --severity=", 2, "--severity is empty"),
        ("train csra --recipe demo --gpus 0 --eval-splits ,", 2, "--eval-splits"),
        ("val csra --load-from x --tau 0.4", 2, "--tau changes nothing without --bias"),
        (
            "val csra --load-from x --reliance --map gradcam",
            2,
            "--map changes nothing without --bias or --faithfulness N",
        ),
        ("val csra --load-from x --truth boxes", 2, "--truth changes nothing without --bias or --reliance"),
        ("val csra --load-from x --epsilon 3", 2, "--epsilon changes nothing without --attack"),
        (
            "val csra --load-from x --attack fgsm --attack-steps 9",
            2,
            "--attack-steps changes nothing without --attack pgd",
        ),
        ("val csra --load-from x --severity 1", 2, "--severity changes nothing without --corrupt"),
        ("export csra --load-from x --limit 3", 2, "--limit changes nothing without --check"),
        ("export csra --load-from x --limit 16", 2, "--limit changes nothing without --check"),
        ("export csra --load-from x --device cpu", 2, "--device changes nothing without --check"),
        ("export csra --load-from x --gpus 0", 2, "--gpus changes nothing without --check"),
        ("export csra --load-from x --threads 1", 2, "--threads changes nothing without --check"),
        ("export csra --load-from x --workers 1", 2, "--workers changes nothing without --check"),
        ("export csra --load-from x --top-k 5 --classes 0", 2, "--top-k changes nothing with --classes"),
        ("visualize csra --load-from x photo.jpg --split val", 2, "--split changes nothing beside images of your own"),
        ("visualize csra --load-from x --style published --contour", 2, "--contour changes nothing with --style"),
        ("val csra --load-from x --robustness-out r.json", 2, "--robustness-out changes nothing without --attack, "),
        ("val csra --load-from x --imagenet-a --bias", 2, "--bias changes nothing without --split"),
        ("val csra --load-from x --imagenet-a --csv s.csv", 2, "--csv changes nothing without --split"),
        ("val csra --load-from x --imagenet-a --store", 2, "--store changes nothing without --split"),
        ("val csra --load-from x --imagenet-a --per-class", 2, "--per-class changes nothing without --split"),
        ("compare x --data-root y", 2, "--data-root changes nothing without --page, --measure or --report"),
        ("train csra --reset-head", 2, "--reset-head changes nothing without --load-from"),
        ("train csra --eval-steps 5 --eval-every 2", 2, "--eval-every changes nothing with --eval-steps"),
        ("train csra --load-from a --backbone-weights b", 2, "two ways to start: give one of them"),
        ("train csra --resume a/step --load-from b", 2, "--load-from changes nothing with --resume a/step"),
        ("train csra --resume a/step --from-scratch", 2, "--from-scratch changes nothing with --resume a/step"),
        ("visualize csra --load-from nowhere", 3, "no checkpoint nowhere"),
        ("compare x --limit 3", 2, "--limit changes nothing without --page"),
        ("compare x --split val", 2, "--split changes nothing without --page"),
        ("compare nowhere", 3, "nowhere is not a run folder"),
        # Commands of the README, typed before there is anything:
        ("prepare-data coco", 3, "needs --download (20 GB), or --source DIR"),
        ("val csra --load-from ckpt", 3, "no checkpoint ckpt; give a run folder, a .safetensors or a published .pth"),
    ],
)
def test_wrong_words_give_one_line_that_helps(typed: str, code: int, words: str, refused: Callable[..., str]) -> None:
    assert words in refused(code, *typed.split())


def test_the_annotations_of_a_folder_in_coco_layout_lead_to_the_folder(here: Path, refused: Callable[..., str]) -> None:
    (here / "mine" / "annotations").mkdir(parents=True)
    (here / "mine" / "images" / "train2017").mkdir(parents=True)
    named = {"id": 1, "file_name": "1.jpg", "width": 8, "height": 8}
    content = {"images": [named], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (here / "mine" / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    line = refused(3, "prepare-data", "mine/annotations/instances_train2017.json")
    assert line.endswith(f"found neither beside it nor in images/; prepare the whole folder: {here / 'mine'}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpus_that_are_not_there(refused: Callable[..., str]) -> None:
    line = "error: --gpus 2 asked for, but this machine has no GPU; use --gpus 0"
    assert refused(2, "train", "csra", "--gpus", 2) == line
    assert refused(2, "val", "csra", "--load-from", "ckpt", "--gpus", 2) == line
    assert "--gpus 4" in refused(2, "train", "ida", "--gpus", 4)


def test_half_precision_needs_a_gpu(refused: Callable[..., str]) -> None:
    assert "use --amp bf16 or --amp no" in refused(2, "train", "csra", "--amp", "fp16", "--gpus", 0)


def test_all_that_a_cpu_has_not_is_refused_at_once_before_processes_start(
    here: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnbias.methods.engine.launch.elastic_launch", None)
    line = refused(2, "train", "ida", "--gpus", 0, "--processes", 2)
    assert "--amp bf16 or --amp no; --sync-bn with several processes needs GPUs; on the CPU use one process" in line
    (here / "used").mkdir()
    (here / "used" / "precious").write_text("mine")
    there = ("train", "csra", "--gpus", 0, "--processes", 2, "--out", "used")
    assert "is not empty; continue it with --resume auto" in refused(2, *there)


def test_a_dry_run_says_what_this_machine_cannot_do() -> None:
    tiny = ("--backbone", "tiny", "--image-size", 32, "--gpus", 0, "--processes", 2)
    shown = attnbias("train", "ida", *tiny, "--dry-run", expect=0).out
    assert "warning: not on this machine: --amp fp16 needs a GPU; on the CPU use --amp bf16 or --amp no\n" in shown
    assert "warning: not on this machine: --sync-bn with several processes needs GPUs" in shown
    assert (
        "not on this machine"
        not in attnbias("train", "ida", *tiny, "--amp", "no", "--no-sync-bn", "--dry-run", expect=0).out
    )


def test_traceback_only_on_request() -> None:
    assert "Traceback" not in attnbias("train", "csra", "--recipe", "nothing", expect=2).err
    shown = attnbias("--debug", "train", "csra", "--recipe", "nothing", expect=2).err
    assert shown.startswith("Traceback")
    assert shown.splitlines()[-1].startswith("error: method 'csra' has no recipe 'nothing'")


def test_a_full_gpu_says_how_to_cut_the_same_batch() -> None:
    code, line = describe(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert code == 1
    assert "--accumulation" in line


@pytest.mark.parametrize(
    ("package", "words"), [("torch", "pip install torch torchvision (for a CPU alone"), ("timm", "pip install timm")]
)
def test_a_package_that_is_not_installed_says_how_to_install_it(package: str, words: str) -> None:
    """As where attnbias was installed without its dependencies."""
    script = f"""
import sys
class Missing:
    def find_spec(self, name, *more):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from attnbias.cli.app import main
main()
"""
    command = [sys.executable, "-c", script, "weights", "inspect", "file.pth"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert f"{package} is not installed; {words}" in line


@pytest.mark.parametrize("command", ["val", "visualize", "export"])
def test_a_paper_with_several_tasks_and_nothing_after_it(command: str, refused: Callable[..., str]) -> None:
    assert "--load-from" in refused(2, command, "absvit")


@pytest.mark.parametrize("option", ["--csv", "--json"])
def test_a_name_that_no_file_can_have(option: str, trained: Path, refused: Callable[..., str]) -> None:
    start = ["predict", "--load-from", trained, trained]
    assert "choose a shorter one" in refused(2, *start, option, "q" * 300)


def test_what_cannot_be_read_is_not_called_unwritable(trained: Path, here: Path, refused: Callable[..., str]) -> None:
    line = refused(3, "visualize", "csra", "--load-from", "q" * 300, "--out", here / "out")
    assert "cannot write" not in line
    assert "no checkpoint " + "q" * 30 in line


@pytest.mark.parametrize("command", ["val", "visualize", "export"])
@pytest.mark.parametrize("paper", ["csra", "absvit"])  # one task, several
def test_a_command_with_nothing_after_its_method_says_what_it_needs(
    command: str, paper: str, refused: Callable[..., str]
) -> None:
    line = refused(2, command, paper)
    assert line == f"error: missing option '--load-from'; see: attnbias {command} {paper} --help"


@pytest.mark.parametrize("command", ["val csra", "visualize csra", "export csra", "predict"])
def test_a_recipe_that_there_is_not_is_said_though_the_weights_tell_theirs(
    command: str, trained: Path, demo_root: Path, refused: Callable[..., str]
) -> None:
    images = [demo_root / "demo" / "images"] if command == "predict" else []
    line = refused(2, *command.split(), *images, "--load-from", trained, "--recipe", "nonsense")
    if command == "predict":  # the weights would say whose recipe it is, and are not asked
        assert line == "error: no method has a recipe 'nonsense'; see: attnbias list recipes"
    else:
        assert line == "error: method 'csra' has no recipe 'nonsense'; see: attnbias list recipes csra"


def test_compare_says_what_no_run_keeps(trained: Path, tmp_path: Path, demo_root: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    assert "no evaluations are kept; run attnbias val with --store first" in attnbias("compare", run, expect=0).out
    val = ("val", "csra", "--load-from", run, "--gpus", 0, "--data-root", demo_root, "--store")
    attnbias(*val, expect=0)
    assert "are kept" not in attnbias("compare", run, expect=0).out
    said = attnbias("compare", run, "--map", "gradcam", expect=0).out
    assert "no attention bias of map 'gradcam' is kept; run attnbias val with --bias --map gradcam --store" in said


@pytest.mark.parametrize("command", ["val csra", "visualize csra", "export csra", "predict", "weights inspect"])
def test_a_recipe_beside_weights_that_tell_theirs_is_refused(
    command: str, trained: Path, demo_root: Path, refused: Callable[..., str]
) -> None:
    images = [demo_root / "demo" / "images"] if command == "predict" else []
    weights = [trained] if command == "weights inspect" else ["--load-from", trained, "--data-root", demo_root]
    line = refused(2, *command.split(), *images, *weights, "--recipe", "demo")
    assert "--recipe demo changes nothing: " in line
    assert "tells its own recipe" in line


def test_a_text_that_no_file_name_holds_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--load-from .*: a text holds a NUL"):
        PredictRequest.of({"load_from": "http://\0/x", "paths": [Path("x.jpg")]})


def test_nothing_stands_beside_itself(
    trained: Path, demo_root: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    again = trained / ".." / trained.name
    assert f"{trained} is named twice" in refused(2, "compare", trained, again)
    val = ("val", "csra", "--load-from", trained, "--gpus", 0)
    assert f"{trained} is named twice" in refused(2, *val, "--load-from", again, "--data-root", demo_root)
    seen = (
        "visualize",
        "csra",
        "--load-from",
        trained,
        "--load-from",
        again,
        "--data-root",
        demo_root,
        "--out",
        "seen",
    )
    assert f"{trained} is named twice" in refused(2, *seen, "--split", "val")
    assert "it names val twice; name each once" in refused(2, *val, "--split", "val,val", "--data-root", demo_root)
    shutil.copytree(demo_root, tmp_path / "root", symlinks=True)
    manifest = tmp_path / "root" / "demo" / "prepared.json"
    content = json.loads(manifest.read_text())
    content["roles"]["val"] = "counter"
    manifest.write_text(json.dumps(content))
    line = refused(2, *val, "--split", "val,counter", "--data-root", tmp_path / "root")
    assert "--split val,counter: both are the split 'counter'; name it once" in line
