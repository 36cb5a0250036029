"""The training loop: a generator of plain events, on one device or on every worker of a gang."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from hrnet.allocator import keep_blocks
from hrnet.catalogue import Recipe
from hrnet.data.loader import Batch, train_batches
from hrnet.data.shards import PreparedDataset
from hrnet.data.transforms import normalise
from hrnet.errors import TrainingError
from hrnet.evaluation.pictures import first_pictures, is_pictured, progress_pictures
from hrnet.evaluation.run import evaluate_split, score_metrics, val_images
from hrnet.events import Event, Kind
from hrnet.memory import evaluation_remedies, memory_explained, training_remedies
from hrnet.model.norm import synchronise_batch_norm
from hrnet.model.segmentor import build_model
from hrnet.training.evidence import Interval
from hrnet.training.gang import Gang
from hrnet.training.gradients import averaged
from hrnet.training.loss import segmentation_loss
from hrnet.training.optim import build_optimizer, poly_lr
from hrnet.training.state import Progress, load_state, save_state
from hrnet.training.wishes import Wishes
from hrnet.weights import load_weights

__all__ = ["train", "train_step"]

_log = logging.getLogger(__name__)

Result = TypeVar("Result")
Answered = Generator[Event, str | None, Result]


def train(
    recipe: Recipe, data: PreparedDataset, *, seed: int = 0, resume: Path | None = None, loader_processes: int = 0
) -> Generator[Event, str | None, None]:
    """Train a recipe and yield what happens; every worker of a gang runs this and yields the same events.

    Any event may be answered, on any rank, with `send("save")` or `send("stop")`: after the next iteration (of a gang
    on GPUs within the next twenty) every rank yields a `checkpoint` event with that `wish`, and after `stop` the
    generator ends. A validation that is due then is left to the training that resumes.

    The samples, their augmentation and the schedule are functions of (seed, iteration) alone, so an interrupted
    training that resumes from a saved state continues exactly, also on another number of workers.

    Args:
        recipe: what to train.
        data: the prepared data set; its train split is trained on, its val split evaluated.
        seed: seed of initialisation, sample order and augmentation.
        resume: folder with a state that an earlier `checkpoint` event saved.
        loader_processes: processes of this worker that load and transform samples; 0 loads in this one.

    Raises:
        TrainingError: the workers do not divide the batch; DivergedError if the loss is no finite number any more.
        MemoryShortage: the memory of the GPU or the machine was not enough.
        DataError, WeightsError: what the data or the weights raise.
    """
    gang = Gang.current()
    _check_divides(recipe, gang.world)
    if gang.device.type == "cpu":
        keep_blocks()
    remedies = training_remedies(recipe, gang.world)
    with memory_explained(gang.device, f"{recipe.name}: the start of the training", remedies):
        model = build_model(recipe.width, recipe.num_classes, seed=seed)
        optimizer = build_optimizer(model, recipe)
        if resume is not None:
            progress = load_state(resume, model, optimizer, recipe, seed, gang)
        else:
            progress = Progress()
            if recipe.pretrained is not None:
                report = load_weights(model, recipe.pretrained, recipe.pretrained_sha256, backbone_only=True)
                if gang.rank == 0:
                    _log.info("%s", report.summary())
        # Channels last is what the convolutions of oneDNN and cuDNN want.
        model.to(gang.device).train()
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack this form
        optimizer.load_state_dict(optimizer.state_dict())  # moves the momentum of a resumed state to the device
        run = _Run(recipe, data, seed, gang, model, optimizer, progress)
    with memory_explained(gang.device, run.doing, remedies):
        yield from run.events(loader_processes)


def _check_divides(recipe: Recipe, world: int) -> None:
    if recipe.batch_size % world:
        divisors = [n for n in range(1, recipe.batch_size + 1) if recipe.batch_size % n == 0]
        raise TrainingError(
            f"{recipe.name}: {world} workers do not divide the batch of {recipe.batch_size}; use one of {divisors}"
        )


def train_step(
    forward: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, recipe: Recipe, device: torch.device
) -> Tensor:
    """Take one optimizer step on a batch; returns float64 (4), to be summed over steps and workers.

    They are the loss times the images, correct pixels, pixels that count, and images.
    """
    images = normalise(batch.images.to(device, non_blocking=True), batch.sizes.to(device, non_blocking=True))
    images = images.contiguous(memory_format=torch.channels_last)
    labels = batch.labels.to(device, non_blocking=True)
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        logits = forward(images)
    loss, correct, valid = segmentation_loss(logits.float(), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    # Workers of gangs of different sizes, before and after a restart, count by their shares. The product is exact.
    count = torch.full_like(loss, len(labels), dtype=torch.float64)
    return torch.stack([loss.detach().double() * count, correct.double(), valid.double(), count])


class _Run:
    """One training in progress: the model, where it is, and what it has measured since the last log."""

    def __init__(
        self,
        recipe: Recipe,
        data: PreparedDataset,
        seed: int,
        gang: Gang,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
    ) -> None:
        self.recipe, self.data, self.seed, self.gang = recipe, data, seed, gang
        self.model, self.optimizer, self.progress = model, optimizer, progress
        progress.sums = progress.sums.to(gang.device)
        self.saved_sums = progress.sums
        self.forward: nn.Module = model
        if gang.world > 1:
            synchronise_batch_norm(model)
            self.forward = averaged(model, gang)
        self.wishes = Wishes(gang)
        self.interval = Interval(recipe, data.split("train"), seed, gang)
        self.waited = 0.0
        self.since = time.perf_counter()
        self.images = 0
        self._restart_memory()

    def events(self, loader_processes: int) -> Answered[None]:
        recipe, progress = self.recipe, self.progress
        if progress.step == 0:
            yield from self._tell(dataclasses.replace(self._event("started"), pictures=self._first_pictures()))
        if self._due(recipe.val_interval) and progress.validated != progress.step:
            # It was stopped when this validation was due.
            yield from self._validate_and_save()
        batches = train_batches(
            self.data.split("train"), recipe, seed=self.seed, start=progress.step, stop=recipe.max_iters,
            rank=self.gang.rank, world=self.gang.world, processes=loader_processes,
        )  # fmt: skip
        while progress.step < recipe.max_iters:
            began = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - began
            self._step(batch)
            progress.step += 1
            yield from self._tell(self._event("step"))
            wish = self.wishes.agreed(progress.step)
            if self._due(recipe.log_interval):
                yield from self._tell(self._log())
            if wish == "stop":
                yield self._checkpoint(best=False, wish=wish)
                return
            if self._due(recipe.val_interval):
                yield from self._validate_and_save(wish)
            elif wish or self._due(recipe.checkpoint_interval):
                yield from self._save_now(best=False, wish=wish)
        yield self._event("finished", {"val/mIoU_best": progress.best})

    def doing(self) -> str:
        """What is under way, for the sentence about a failure."""
        recipe, share = self.recipe, self.recipe.batch_size // self.gang.world
        size = f"{recipe.crop[0]}x{recipe.crop[1]}"
        return f"{recipe.name}: iteration {self.progress.step + 1} on {share} images of {size} per worker"

    def _due(self, interval: int) -> bool:
        """Whether the iteration just completed is one of every `interval`, or the last."""
        step = self.progress.step
        return step > 0 and (step % interval == 0 or step == self.recipe.max_iters)

    def _event(self, kind: Kind, metrics: Mapping[str, float] | None = None) -> Event:
        return Event(kind=kind, step=self.progress.step, total=self.recipe.max_iters, metrics=metrics or {})

    def _tell(self, event: Event) -> Answered[None]:
        self.wishes.take((yield event))

    def _validate_and_save(self, wish: str = "") -> Answered[None]:
        score = yield from self._validate()
        best = score > self.progress.best
        self.progress.best = max(self.progress.best, score)
        self._restart_clock()
        if wish or self._due(self.recipe.checkpoint_interval):
            yield from self._save_now(best=best, wish=wish)

    def _save_now(self, *, best: bool, wish: str) -> Answered[None]:
        yield from self._tell(self._checkpoint(best=best, wish=wish))
        self._restart_clock()

    def _step(self, batch: Batch) -> None:
        lr = poly_lr(self.progress.step, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        sums = train_step(self.forward, self.optimizer, batch, self.recipe, self.gang.device)
        self.progress.sums += sums
        self.interval.note(self.progress.step + 1, lr, sums[0] / sums[3])
        self.images += batch.images.shape[0]

    def _log(self) -> Event:
        loss, correct, valid, images = self.gang.sum_(self.progress.sums.clone()).tolist()
        if not math.isfinite(loss):
            raise self.interval.diverged(self.progress.step)
        self.progress.sums = torch.zeros_like(self.progress.sums)
        self.interval.clear()
        elapsed = max(time.perf_counter() - self.since, 1e-9)
        metrics = {
            "train/loss": loss / images,
            "train/acc": 100 * correct / max(valid, 1.0),
            "train/lr": float(self.optimizer.param_groups[0]["lr"]),
            "train/data_wait": self.waited / elapsed,
            "train/images_per_s": self.images * self.gang.world / elapsed,
        }
        if self.gang.device.type == "cuda":
            self._note_memory()
            metrics["train/memory_gb"] = self.progress.memory / 1e9
        self._restart_clock()
        return self._event("progress", metrics)

    def _restart_clock(self) -> None:
        """Validation and saving are no training time: the rates cover training alone."""
        self.waited, self.images, self.since = 0.0, 0, time.perf_counter()

    def _validate(self) -> Answered[float]:
        """Evaluate the val split; yields signs of life and one `validated` event, returns the mIoU in percent."""
        self._note_memory()
        recipe, progress, split, pictures = self.recipe, self.progress, self.data.split("val"), {}
        count = val_images(split, recipe)
        per_image = torch.zeros(count, dtype=torch.float64)
        evaluation = evaluate_split(self.model, split, recipe, self.gang, per_image=per_image)
        doing = f"{recipe.name}: the validation after iteration {progress.step}"
        with memory_explained(self.gang.device, doing, evaluation_remedies(recipe)):
            matrix = yield from self._followed(evaluation)
            if self.gang.rank == 0 and is_pictured(progress.step, recipe):
                pictures = progress_pictures(self.model, split, count, recipe, self.data.card, self.gang.device)
        scores = matrix.scores()
        self._restart_memory()
        progress.validated, progress.confusion, progress.per_image = progress.step, matrix.state(), per_image
        event = self._event("validated", score_metrics(scores))
        yield from self._tell(dataclasses.replace(event, pictures=pictures))
        return scores.mIoU

    def _first_pictures(self) -> Mapping[str, bytes]:
        if self.gang.rank or "val" not in self.data.splits:
            return {}
        split = self.data.split("val")
        return first_pictures(split, val_images(split, self.recipe), self.data.card)

    def _followed(self, work: Generator[object, None, Result]) -> Answered[Result]:
        """Run a generator to its end with a sign of life for each of its own, and return what it returns."""
        while True:
            try:
                next(work)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            yield from self._tell(self._event("step"))

    def _restart_memory(self) -> None:
        """What an evaluation takes is not counted as training."""
        if self.gang.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.gang.device)

    def _note_memory(self) -> None:
        """Keep the most that training has taken on any worker, so that a checkpoint knows it."""
        if self.gang.device.type == "cuda":
            here = torch.cuda.max_memory_allocated(self.gang.device)
            self.progress.memory = self.gang.largest(max(self.progress.memory, here))

    def _checkpoint(self, *, best: bool, wish: str) -> Event:
        self.saved_sums = self.gang.gathered(self.progress.sums)
        if not math.isfinite(float(self.saved_sums[:, 0].sum())):
            # What would be saved could never be gone on with.
            raise self.interval.diverged(self.progress.step)
        self._note_memory()
        return Event(
            kind="checkpoint", step=self.progress.step, total=self.recipe.max_iters, save=self._save, best=best,
            wish=wish, metrics={"val/mIoU_best": self.progress.best},
        )  # fmt: skip

    def _save(self, folder: Path) -> None:
        progress = dataclasses.replace(self.progress, sums=self.saved_sums)
        save_state(folder, self.model, self.optimizer, progress, self.recipe, self.seed)
