"""What every method promises, whatever its paper: one suite, run over all methods and their tasks.

An entry in test_contract.py names a method and the fields that make its recipe small. What is not a classifier of
images also says how its batches look; a method whose published names are not ours says what they are.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from attnbias.data.index import Task
from attnbias.methods.engine.description import AT_LAYER
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.export import runner, wrap, write_graph
from attnbias.methods.engine.load import Loaded, load_run, weights_metadata
from attnbias.methods.engine.maps import attention_maps
from attnbias.methods.engine.recipe import Recipe, override, read_recipe, write_recipe
from attnbias.methods.engine.registry import get_method
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import write_weights

CLASSES = 5
NAMES = tuple("abcde")
COUNT = 5
"""Samples of a batch; an odd number, so that its shards differ in size."""
SPE = 50
"""Steps of an epoch, for schedules."""


@dataclass(frozen=True)
class Small:
    """A small model of a method, and what it was built from."""

    method: Any
    recipe: Recipe
    task: Task
    model: nn.Module
    """In evaluation mode, and shared: a test that changes it takes a copy."""


def randomly(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Contract:
    """The promises of one method; a subclass whose name begins with Test is its entry."""

    method: ClassVar[str]
    recipes: ClassVar[dict[Task, str]] = {"multilabel": "demo", "singlelabel": "demo-single"}
    """Task -> the recipe that the small one is made of."""
    fields: ClassVar[dict[str, Any]] = {}
    """What makes it small."""
    of_the_whole_batch: ClassVar[dict[Task, tuple[str, ...]]] = {}
    """Task -> terms of the loss that are no mean over samples: the paper's are not."""
    graphs: ClassVar[tuple[Task, ...]] = ("multilabel",)
    """Tasks whose models differ as graphs: single-label work has that of multi-label work."""
    exported_elsewhere: ClassVar[tuple[Task, ...]] = ()
    """Those of them whose exported graph another test holds in every run."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "task" in metafunc.fixturenames:
            name = metafunc.function.__name__
            tasks = [task for task in self.recipes if task in self.graphs or not name.endswith("graph")]
            if "exported" in name:
                tasks = [task for task in tasks if task not in self.exported_elsewhere]
            metafunc.parametrize("task", tasks, scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def small(cls, task: Task) -> Small:
        found = get_method(cls.method)
        recipe = override(found.named_recipe(cls.recipes[task]).recipe, cls.fields)
        torch.manual_seed(0)
        model = found.build_model(recipe, cls.classes(task), task)
        for parameter in model.parameters():  # zeros, as heads may start with, would hide what is compared
            torch.nn.init.normal_(parameter, std=0.1) if not parameter.any() else None
        return Small(found, recipe, task, model.eval())

    # What a method that does not classify images has its own of ---------------------------------------------------

    @classmethod
    def classes(cls, task: Task) -> int:
        return CLASSES

    def batch(self, small: Small, count: int = COUNT) -> dict[str, Any]:
        """A batch of `count` samples."""
        size = small.recipe.image_size
        images = torch.stack([randomly(3, size, size, seed=k) for k in range(count)])
        labels = torch.arange(count) % CLASSES
        target = nn.functional.one_hot(labels, CLASSES).float() if small.task == "multilabel" else labels
        if small.task == "multilabel":
            target[0, 1] = -1  # unknown
        return {"image": images, "target": target, "index": torch.arange(count), "errors": []}

    def logits(self, small: Small, batch: dict[str, Any]) -> Tensor:
        logits: Tensor = small.model(batch["image"])
        return logits

    def logits_shape(self, small: Small, count: int) -> tuple[int, ...]:
        return count, CLASSES

    def scores(self, small: Small, batch: dict[str, Any]) -> Tensor | None:
        """Probabilities of the classes; None where a sample has none."""
        scores: Tensor = small.method.predict(small.model, batch["image"], small.task)["scores"]
        return scores

    def image_size(self, side: int) -> tuple[int, int]:
        """Width and height of an image that every recipe of this image size takes."""
        return side * 3 // 2, side + 1

    def publish(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights under the names of the paper's program."""
        return state

    # Training ---------------------------------------------------------------------------------------------------------

    def test_logits_are_a_row_a_sample(self, small: Small) -> None:
        for count in (1, COUNT):
            with torch.no_grad():
                assert self.logits(small, self.batch(small, count)).shape == self.logits_shape(small, count)

    def test_losses_and_scores_are_float32_also_under_autocast(self, small: Small) -> None:
        def found() -> list[Tensor | None]:
            torch.manual_seed(0)
            batch = self.batch(small)
            loss = small.method.loss(small.model, batch, small.recipe, small.task)["loss"]
            with torch.no_grad():
                return [loss.detach(), self.scores(small, batch)]

        exact = found()
        with torch.autocast("cpu", torch.bfloat16):
            coarse = found()
        for full, half in zip(exact, coarse, strict=True):
            assert (full is None) == (half is None)
            if full is not None and half is not None:
                assert full.dtype == half.dtype == torch.float32
                torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)

    def test_the_loss_of_a_batch_is_the_weighted_mean_of_its_shards(self, small: Small) -> None:
        def terms(batch: dict[str, Any]) -> dict[str, Tensor]:
            torch.manual_seed(0)
            found: dict[str, Tensor] = small.method.loss(small.model, batch, small.recipe, small.task)
            return found

        batch = self.batch(small)
        shards = [{name: value[part] for name, value in batch.items()} for part in (slice(2), slice(2, COUNT))]
        whole, parts = terms(batch), [terms(shard) for shard in shards]
        assert "loss" in whole
        means = whole.keys() - set(self.of_the_whole_batch.get(small.task, ()))
        assert means
        for name in means:
            mean = sum(part[name] * len(shard["index"]) / COUNT for part, shard in zip(parts, shards, strict=True))
            torch.testing.assert_close(mean, whole[name], rtol=1e-4, atol=1e-5)

    def test_groups_hold_every_trainable_parameter_once(self, small: Small) -> None:
        groups = small.method.param_groups(small.model, small.recipe)
        held = Counter(id(parameter) for group in groups for parameter in group["params"])
        assert held == Counter(id(p) for p in small.model.parameters() if p.requires_grad)
        assert all({"params", "lr", "weight_decay"} <= group.keys() for group in groups)

    def test_every_trainable_parameter_gets_a_gradient(self, small: Small) -> None:
        """Several processes wait for each of them."""
        model = copy.deepcopy(small.model).train()
        small.method.loss(model, self.batch(small), small.recipe, small.task)["loss"].backward()
        without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not without

    @pytest.mark.parametrize("steps", [7 * SPE, 12 * SPE, 1003])
    def test_a_schedule_ends_where_steps_says(self, small: Small, steps: int) -> None:
        recipe = override(small.recipe, {"epochs": 12, "steps": None})
        by_epochs = small.method.schedule(recipe, SPE)
        schedule = small.method.schedule(override(recipe, {"steps": steps}), SPE)
        rates = [schedule(step)["lr"] for step in range(steps)]
        assert rates[-1] == pytest.approx(by_epochs(12 * SPE - 1)["lr"], abs=0.01)
        assert max(rates) == pytest.approx(max(by_epochs(step)["lr"] for step in range(12 * SPE)), abs=0.03)
        assert [schedule(step)["lr"] for step in (steps - 1, 3)] == [rates[-1], rates[3]]  # resuming shifts nothing

    def test_a_training_step_compiles_into_one_graph(self, small: Small) -> None:
        models = [copy.deepcopy(small.model).train() for _ in range(2)]
        compiled = torch.compile(models[1], fullgraph=True, backend="eager")
        losses = []
        for model in (models[0], compiled):
            torch.manual_seed(0)
            loss = small.method.loss(model, self.batch(small), small.recipe, small.task)["loss"]
            loss.backward()
            losses.append(loss.detach())
        torch.testing.assert_close(losses[0], losses[1])
        torch.compiler.reset()

    # Maps -------------------------------------------------------------------------------------------------------------

    def test_every_map_is_of_the_asked_classes_and_not_negative(self, small: Small) -> None:
        method, images = small.method, self.batch(small, 2)["image"]
        for kind in (*self.kinds(small), *AT_LAYER):
            every = attention_maps(method, small.model, images, torch.arange(CLASSES), kind)
            assert every.shape[:2] == (2, CLASSES), kind
            assert every.dtype == torch.float32
            assert torch.isfinite(every).all()
            assert (every >= 0).all()
            assert every.any()
            some = attention_maps(method, small.model, images, torch.tensor([4, 1]), kind)
            torch.testing.assert_close(some, every[:, [4, 1]], rtol=1e-3, atol=1e-4)
            own = attention_maps(method, small.model, images, torch.tensor([[3], [0]]), kind)
            torch.testing.assert_close(own[:, 0], torch.stack([every[0, 3], every[1, 0]]), rtol=1e-3, atol=1e-4)
            alone = attention_maps(method, small.model, images[1:], torch.tensor([3]), kind)
            torch.testing.assert_close(alone, every[1:, 3:4], rtol=1e-3, atol=1e-4)
            if kind not in AT_LAYER:
                all_of_them = method.attention(small.model, images, kind=kind)
                torch.testing.assert_close(all_of_them, every, rtol=1e-3, atol=1e-4)
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):  # as under --amp
                coarse = attention_maps(method, small.model, images, torch.arange(CLASSES), kind)
            assert coarse.dtype == torch.float32
            assert (coarse - every).abs().mean() < 0.05 * every.max(), kind

    def kinds(self, small: Small) -> list[str]:
        return list(small.method.maps)

    # Recipes and weights ----------------------------------------------------------------------------------------------

    def test_every_recipe_survives_its_yaml_file(self, tmp_path: Path) -> None:
        found = get_method(self.method)
        for name, known in found.recipes.items():
            for recipe in (known.recipe, override(known.recipe, {"seed": 3, "clip_grad": 0.5, "dataset": "null"})):
                write_recipe(tmp_path / "recipe.yaml", recipe, self.method)
                assert read_recipe(tmp_path / "recipe.yaml", found.recipe_type, self.method) == recipe, name

    def test_every_recipe_prepares_images_of_its_size(self) -> None:
        found = get_method(self.method)
        for name, known in found.recipes.items():
            side = known.recipe.image_size
            original = Image.new("RGB", self.image_size(side), "red")
            for train in (False, True):
                image = found.transform(known.recipe, train)(original)
                assert (image.shape, image.dtype) == ((3, side, side), torch.float32), name

    def test_weights_tell_their_recipe(self, small: Small) -> None:
        told = small.method.infer(small.model.state_dict())
        assert told.pop("num_classes") == self.classes(small.task)
        assert told == {name: getattr(small.recipe, name) for name in told}
        assert told

    def test_a_saved_model_loads_without_flags_and_answers_the_same(self, small: Small, tmp_path: Path) -> None:
        loaded = self.saved(small, tmp_path)
        assert loaded.recipe == small.recipe
        assert (loaded.classes, loaded.task) == (NAMES[: self.classes(small.task)], small.task)
        self.answers_alike(small, loaded.model)

    @pytest.mark.parametrize("form", ["bare", "parallel", "training"])
    def test_a_published_file_loads_and_answers_the_same(self, small: Small, form: str, tmp_path: Path) -> None:
        state = self.publish(small.model.state_dict())
        if form != "bare":
            state = {f"module.{name}": value for name, value in state.items()}
        training = {"epoch": 3, "state_dict": state, "args": argparse.Namespace(lr=0.1), "optimizer": {}}
        torch.save(training if form == "training" else state, tmp_path / "w.pth")
        loaded = self.published(small, tmp_path / "w.pth", self.flags(small))
        assert len(loaded.classes) == self.classes(small.task)
        self.answers_alike(small, loaded.model)

    def test_flags_that_contradict_weights_are_refused(self, small: Small, tmp_path: Path) -> None:
        torch.save(self.publish(small.model.state_dict()), tmp_path / "w.pth")
        told = small.method.infer(small.model.state_dict()).keys() - {"num_classes", "image_size"}
        for name in told:
            with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} other contradicts .*w.pth"):
                self.published(small, tmp_path / "w.pth", {**self.flags(small), name: "other"})

    def published(self, small: Small, path: Path, flags: dict[str, Any]) -> Loaded:
        recipe = self.recipes[small.task]
        return load_run(self.method, str(path), flags, recipe_name=recipe, data_root=path.parent)

    def flags(self, small: Small) -> dict[str, Any]:
        """What a published file does not tell."""
        return {name: getattr(small.recipe, name) for name in ("image_size", *small.method.untold)}

    def test_weights_of_others_are_refused(self, tmp_path: Path) -> None:
        torch.save({"conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=f"w.pth is not a checkpoint of '{self.method}'"):
            load_run(self.method, str(tmp_path / "w.pth"), {})

    def saved(self, small: Small, folder: Path) -> Loaded:
        """The model as it comes back from one of our files."""
        metadata = weights_metadata(small.method, small.recipe, NAMES[: self.classes(small.task)], small.task)
        write_weights(folder / "w.safetensors", small.model.state_dict(), metadata)
        return load_run(self.method, str(folder / "w.safetensors"), {})

    def answers_alike(self, small: Small, model: nn.Module) -> None:
        batch = self.batch(small, 2)
        with torch.no_grad():
            found = self.logits(Small(small.method, small.recipe, small.task, model), batch)
            assert torch.equal(found, self.logits(small, batch))

    def test_what_is_exported_answers_as_the_model_does_as_one_graph(self, small: Small, tmp_path: Path) -> None:
        loaded = self.saved(small, tmp_path)
        exported = wrap(loaded, top_k=2) if small.task == "multilabel" else wrap(loaded)
        write_graph(exported, loaded, "torch-export", tmp_path / "m.pt2")
        inputs = exported.feed(self.batch(small, 4))
        with torch.no_grad():
            found = runner(tmp_path / "m.pt2", "torch-export")(*inputs)
            for ours, theirs in zip(exported(*inputs), found, strict=True):
                torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
