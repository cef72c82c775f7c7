"""Faults of a training step: schedule, mixing, order, clipping, averages, gradients that are not finite."""

from __future__ import annotations

from fault import Fault

STEP = "methods/engine/training/step.py"
REFERENCE = "tests/methods/test_reference_step.py"
PLAIN = (f"{REFERENCE}::test_training_equals_a_loop_by_hand[plain]",)
REPEATS = (f"{REFERENCE}::test_training_equals_a_loop_by_hand[repeats]",)
PROCESSES = (f"{REFERENCE}::test_training_equals_a_loop_by_hand[processes]",)
TRAIN = "methods/engine/training/train.py"
UPDATES = "tests/engine/test_updates.py"

FAULTS = (
    Fault(
        "schedule one step late",
        STEP,
        "apply_schedule(self.optimizer, self.schedule, step)",
        "apply_schedule(self.optimizer, self.schedule, max(step - 1, 0))",
        PLAIN,
    ),
    Fault("mixing never applied", STEP, "if self.mix is not None:", "if self.mix is not None and step < 0:", PLAIN),
    Fault(
        "mixing draws the same at every step",
        STEP,
        "np.random.default_rng((self.recipe.seed, step, micro, self.accelerator.process_index))",
        "np.random.default_rng((self.recipe.seed, 0, micro, self.accelerator.process_index))",
        PLAIN,
    ),
    Fault(
        "mixing draws the same in every process",
        STEP,
        "np.random.default_rng((self.recipe.seed, step, micro, self.accelerator.process_index))",
        "np.random.default_rng((self.recipe.seed, step, micro, 0))",
        PROCESSES,
    ),
    Fault(
        "mixing draws the same in every micro-batch",
        STEP,
        "np.random.default_rng((self.recipe.seed, step, micro, self.accelerator.process_index))",
        "np.random.default_rng((self.recipe.seed, step, 0, self.accelerator.process_index))",
        REPEATS,
    ),
    Fault(
        "one dropout mask for all steps",
        STEP,
        "torch.manual_seed(_seed(recipe.seed, step, accelerator.process_index))",
        "torch.manual_seed(_seed(recipe.seed, 0, accelerator.process_index))",
        PLAIN,
    ),
    Fault(
        "one dropout mask for all processes",
        STEP,
        "torch.manual_seed(_seed(recipe.seed, step, accelerator.process_index))",
        "torch.manual_seed(_seed(recipe.seed, step))",
        PROCESSES,
    ),
    Fault(
        "moving average decays the wrong way",
        "methods/engine/training/train.py",
        "decay=recipe.ema_decay",
        "decay=1 - recipe.ema_decay",
        PLAIN,
    ),
    Fault(
        "repeated augmentation ignored",
        "methods/engine/training/setup.py",
        "order = own or shuffled(samples, recipe.seed)",
        "order = shuffled(samples, recipe.seed)",
        REPEATS,
    ),
    Fault(
        "views of a repeated image share their augmentation",
        "methods/engine/training/sampler.py",
        "return epoch * counts.max(initial=1) + views",
        "return epoch * counts.max(initial=1) + 0 * views",
        REPEATS,
    ),
    Fault(
        "micro-batches weigh the same, whatever their size",
        "methods/engine/training/sampler.py",
        "return [len(share) * self.processes / total for share in shares[rank :: self.processes]]",
        "return [1 / self.accumulation for share in shares[rank :: self.processes]]",
        PROCESSES,
    ),
    Fault(
        "one order for all epochs",
        "methods/engine/training/sampler.py",
        "np.random.default_rng((seed, epoch)).permutation(samples)",
        "np.random.default_rng((seed, 0)).permutation(samples)",
        PLAIN,
    ),
    Fault(
        "the optimiser's beta is not scheduled",
        "methods/engine/training/optim.py",
        'group["betas"] = (settings["beta1"], group["betas"][1])',
        'group["betas"] = group["betas"]',
        (f"{REFERENCE}::test_three_steps_of_each_demo_recipe_equal_a_loop_by_hand[ida]",),
    ),
    Fault(
        "the gradient scaler is not restored",
        TRAIN,
        'self.accelerator.scaler.load_state_dict(state["scaler"])',
        "self.accelerator.scaler.load_state_dict(self.accelerator.scaler.state_dict())",
        (f"{UPDATES}::test_the_scaler_of_a_resumed_run_goes_on_where_it_stood",),
    ),
    Fault(
        "the gradient scaler is not saved",
        TRAIN,
        '"scaler": scaler.state_dict() if scaler else None',
        '"scaler": None',
        (f"{UPDATES}::test_the_scaler_of_a_resumed_run_goes_on_where_it_stood",),
    ),
    Fault(
        "fp16 skips steps for ever",
        STEP,
        "scaler.get_scale() < SMALLEST_SCALE",
        "scaler.get_scale() < 0",
        (f"{UPDATES}::test_under_fp16_a_gradient_that_is_never_finite_is_counted_and_ends_the_run",),
    ),
    Fault(
        "fp16 stops at the first overflow",
        STEP,
        "if bad or (overflow and scaler is None):",
        "if bad or overflow:",
        (f"{UPDATES}::test_under_fp16_an_overflow_is_left_to_the_scaler",),
    ),
    Fault(
        "skipped steps are averaged, not counted",
        TRAIN,
        '(1 if name == "skipped_steps" else len(values))',
        "len(values)",
        (f"{UPDATES}::test_skipped_steps_are_said_on_the_line",),
    ),
    Fault(
        "the gradient itself is not looked at",
        STEP,
        "int(not finite_gradient)",
        "0",
        (f"{UPDATES}::test_a_gradient_that_is_not_finite_never_reaches_the_weights",),
    ),
    Fault(
        "only the last micro-batch's loss is looked at",
        STEP,
        "finite &= torch.isfinite(losses[-1])",
        "finite = torch.isfinite(losses[-1])",
        (f"{UPDATES}::test_under_fp16_a_loss_that_is_not_finite_stops_at_once",),
    ),
    Fault(
        "--clip-grad ignored",
        STEP,
        "self.accelerator.clip_grad_norm_(parameters, limit)",
        "self.accelerator.clip_grad_norm_(parameters, 1e9 * limit)",
        PLAIN,
    ),
    Fault(
        "the average is updated before the step",
        STEP,
        "        self.optimizer.step()  # under",
        "        if self.ema is not None and step >= averages_from:\n            self.ema.update(self.model)\n"
        "            averages_from = step + 1\n        self.optimizer.step()  # under",
        PLAIN,
    ),
)
