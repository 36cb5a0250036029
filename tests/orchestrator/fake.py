"""A workload in plain Python: a tiny deterministic "training" that passes through the platform as HRNet does."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.workload import Cell, Estimate, Facts, Input, Json, Problem, Spec

DEFAULTS: dict[str, Json] = {
    "steps": 8, "batch": 4, "workers": 2, "interval": 2, "rate": 0.5,
    "fail_at": 0,  # training raises at this step; 0: never
    "fail_while": "",  # ... but only while this file exists, when one is named
    "sleep": 0.0,  # seconds per step
}  # fmt: skip


WISHES = ("", "save", "stop")


@dataclass(frozen=True, kw_only=True, slots=True)
class FakeEvent:
    """Satisfies `orchestrator.workload.Event`."""

    kind: str
    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    save: Callable[[Path], None] | None = None
    best: bool = False
    wish: str = ""


class FakeWorkload:
    """Eight cells (two shapes, two tasks, two schedules); the loss of a step depends on seed, step and state alone."""

    def cells(self) -> Sequence[Cell]:
        return [
            Cell(name=f"{shape}-{task}-{plan}", facets={"task": task, "shape": shape, "plan": plan})
            for task in ("add", "sort") for plan in ("short", "long") for shape in ("thin", "thick")
        ]  # fmt: skip

    def resolve(self, cell: Cell, overrides: Mapping[str, str], *, seed: int, data: str | None) -> Spec:
        settings = dict(DEFAULTS, steps=8 if cell.facets["plan"] == "short" else 16)
        for name, text in overrides.items():
            if name not in settings:
                raise ValueError(f"{cell.name}: unknown setting {name!r}; known: {', '.join(sorted(settings))}")
            settings[name] = type(DEFAULTS[name])(text)
        changed = tuple(f"{name} {settings[name]}" for name in overrides if name not in ("sleep", "fail_while"))
        fingerprint = "" if data is None else hashlib.sha256(data.encode()).hexdigest()
        return Spec(cell=cell, settings=settings, seed=seed, data=data or "", data_fingerprint=fingerprint,
                    code_version="1", not_comparable=changed)  # fmt: skip

    def estimate(self, spec: Spec) -> Estimate:
        s = spec.settings
        work = 4.0 if spec.cell.facets["shape"] == "thick" else 1.0
        return Estimate(batch=s["batch"], workers=s["workers"], iterations=s["steps"], work=work, memory_gb=work,
                        family=spec.cell.facets["shape"], interval=s["interval"])  # fmt: skip

    def preflight(self, spec: Spec) -> Sequence[Problem]:
        return [Problem(where="data", message="the folder 'broken' holds no data")] if spec.data == "broken" else []

    def train(self, spec: Spec, resume: Path | None, *, cpus: int) -> Generator[FakeEvent, str | None, None]:
        s, total = spec.settings, spec.settings["steps"]
        state: dict[str, Json] = {"step": 0, "value": 1.0, "best": 1e9}
        if resume is not None:
            state = json.loads((resume / "state.json").read_text())
        own = 0
        for step in range(state["step"] + 1, total + 1):
            time.sleep(s["sleep"])
            if step == s["fail_at"] and (not s["fail_while"] or Path(s["fail_while"]).exists()):
                raise RuntimeError(f"{spec.cell.name} fails at step {step}, as asked")
            draw = hashlib.sha256(f"{spec.seed}:{step}".encode()).digest()[0] / 255
            state.update(step=step, value=state["value"] * (1 - s["rate"] / 4) + 0.01 * draw)
            own = max(own, WISHES.index((yield FakeEvent(kind="step", step=step, total=total)) or ""))
            wish, own = WISHES[_largest(own)], 0
            events, best = [], False
            if step % s["interval"] == 0 or step == total:
                best, state["best"] = state["value"] < state["best"], min(state["best"], state["value"])
                loss, score = {"train/loss": state["value"]}, {"val/mIoU": _score(state["value"])}
                events = [FakeEvent(kind="progress", step=step, total=total, metrics=loss),
                          FakeEvent(kind="validated", step=step, total=total, metrics=score)]  # fmt: skip
            if events or wish:
                save = _saver(json.dumps(state))
                events += [FakeEvent(kind="checkpoint", step=step, total=total, best=best, save=save, wish=wish)]
            for event in events:
                own = max(own, WISHES.index((yield event) or ""))
            if wish == "stop":
                return
        yield FakeEvent(kind="finished", step=total, total=total, metrics={"train/loss": state["value"]})

    def evaluate(self, spec: Spec, checkpoint: Path, *, cpus: int) -> Iterator[FakeEvent]:
        score = _score(json.loads((checkpoint / "state.json").read_text())["value"])
        metrics = {"val/mIoU": score, "val/mIoU_ms_flip": score + 1.0}
        yield FakeEvent(kind="progress", step=1, total=2)
        yield FakeEvent(kind="finished", step=2, total=2, metrics=metrics,
                        artifacts={"eval/scores.json": json.dumps(metrics).encode()})  # fmt: skip

    def published(self, cell: Cell) -> Mapping[str, float] | None:
        if cell.facets["task"] == "sort":
            return None
        return {"val/mIoU": 70.0, "val/mIoU_ms_flip": 71.0, "speed/fps": 20.0, "speed/train_mem_gb": 2.0}

    def inputs(self, spec: Spec) -> Sequence[Input]:
        return [Input(name=spec.cell.facets["task"], context="train", profile={"numbers": 7})]

    def facts(self, cell: Cell) -> Facts:
        return Facts()


def _largest(wish: int) -> int:
    """The largest wish over the process group that Ray Train made; the own one where there is none."""
    if "torch" not in sys.modules:
        return wish
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        return wish
    shared = torch.tensor(wish)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return int(shared)


def _score(value: float) -> float:
    return 100.0 / (1.0 + value)


def _saver(text: str) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        (folder / "state.json").write_text(text)

    return save
