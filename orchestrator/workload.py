"""The interface between the platform and what it runs: plain types and one protocol, standard library only.

The platform knows cells, specs, gangs, keys and states. What a cell computes is the workload's business; a fake
workload of thirty lines passes through the same scheduler as HRNet does (see tests/orchestrator/fake.py).

A training may be asked to save or to stop: the platform answers an event of `train` on any rank with
`generator.send("save")` or `send("stop")` (None otherwise; a plain `for` never asks). The workload shares the wishes
over the gang, the largest wins (stop over save), and at the next step that all ranks agree on, every rank yields a
`checkpoint` event with that `wish`; no step has more than one checkpoint event. After the one of `stop` the generator
returns without `finished`, and a training that resumes from that checkpoint does what was left out: a validation that
was due at the step, then the next steps.

An exception of a workload may say what kind of failure it is, in a class attribute `failure: str`:

- `out-of-memory`: the device's or the machine's memory was not enough; the same again would fail again;
- `diverged`: the numbers are no longer finite; an attribute `evidence`, a JSON-able mapping, may hold what shows it,
  and the platform keeps that as the artifact `evidence/diverged.json`;
- `data`: a sample or a file of the data set is broken; the message names it;
- `mistake`: something else that the user can mend, in a sentence;
- `storage`: a remote location of the data does not answer;
- `worker-lost`: a process that the workload started died.

The first four are never tried again. A ValueError without it is taken for a mistake, any other exception for an error
of the program.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Cell", "Estimate", "Event", "Facts", "Input", "Json", "Packaged", "Problem", "Spec", "Workload"]

Json = Any
"""A value that `json.dumps` takes: None, bool, int, float, str, or lists and string-keyed dicts of these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One entry of a grid, before any override: a name and the facets that filters select by."""

    name: str
    """Unique within the workload, safe as a file name."""

    facets: Mapping[str, str] = field(default_factory=dict)
    """Facet (for HRNet: dataset, width, schedule) to value; the columns that people filter and group by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """A cell made complete: everything that its result depends on, validated and JSON-able."""

    cell: Cell
    """The cell that this spec resolves."""

    settings: Mapping[str, Json]
    """Every setting with its value."""

    seed: int
    """Seed of the trial."""

    data: str
    """Where the prepared data is (path or URI). Not part of the identity: the fingerprint is."""

    data_fingerprint: str
    """Hash of the data's content."""

    code_version: str
    """Version of the code that changes numbers."""

    locations: Mapping[str, str] = field(default_factory=dict)
    """Setting to where its content lies, for settings that name files by content. Not part of the identity."""

    free: tuple[str, ...] = ()
    """Names of settings that say how a trial is run and watched, not what it computes. Not part of the identity."""

    not_comparable: tuple[str, ...] = ()
    """Why the result must not be compared with a published one; empty when it may be."""

    sample: Mapping[str, str] = field(default_factory=dict)
    """Settings that a search drew, by name; empty without one. Not part of the identity: the settings are."""

    @property
    def title(self) -> str:
        """The name that people see: the cell's, with the seed when it is not 0 and what a search drew."""
        drawn = "".join(f" {name}={value}" for name, value in self.sample.items())
        return self.cell.name + (f" seed {self.seed}" if self.seed else "") + drawn


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a spec needs, before it has run."""

    batch: int
    """Samples per iteration over the whole gang; a number of workers must divide it."""

    workers: int
    """Number of workers that the recipe was published with."""

    iterations: int
    """Iterations in all."""

    work: float
    """Arithmetic of one iteration over the whole gang, in units of 1e9 multiply-accumulates."""

    memory_gb: float
    """Peak memory of one worker at the default number of workers, in units of 1e9 bytes."""

    family: str = ""
    """Specs of one family do their arithmetic at about the same speed (for HRNet: the width); empty: unlike any other.
    What was measured of one then tells of the others."""

    interval: int = 0
    """Iterations between two validations; 0: unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Why a spec cannot run, found before any worker is asked for."""

    where: str
    """The file, field or setting."""

    message: str
    """One sentence: what is wrong, the value seen, what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a published table says of a cell beside its metrics, as text to print; all may be empty."""

    section: str = ""
    """Heading that the cell stands under."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Heading of a column to its text, in the order of the table."""

    device: str = ""
    """What the published memory and speed were measured on."""

    links: Mapping[str, str] = field(default_factory=dict)
    """Name (for HRNet: config, checkpoint, log) to address."""

    results: Mapping[str, str] = field(default_factory=dict)
    """What to look at of a finished trial (for HRNet: confusion matrix, overlays) to its path among the artifacts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """A part of the data that a trial is made from, as a person sees it in the tracking store."""

    name: str
    """Name of the data set, with the part's own if there are several."""

    context: str
    """What it is for, such as train or val."""

    profile: Mapping[str, Json] = field(default_factory=dict)
    """What is known of its content, such as numbers of images and classes."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Name of a column to its type in MLflow's words, such as string, binary or long; empty where it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packaged:
    """What a workload says of a checkpoint that it has made a model of, for whoever keeps and serves models.

    A workload may have a method `package(spec: Spec, checkpoint: Path, folder: Path) -> Packaged`. It writes what the
    model needs to be loaded into `folder/data`, and the Python packages that load it into `folder/code`.
    """

    loader: str
    """Module in `folder/code` whose function `_load_pyfunc(path)` makes the model of `folder/data`, as MLflow asks."""

    signature: Mapping[str, Sequence[Mapping[str, Json]]]
    """What the model takes and gives: `inputs`, `outputs` and `params` in MLflow's form."""

    example: Mapping[str, str]
    """One input: the column's name to its value; of a binary column in base64."""

    requirements: tuple[str, ...]
    """What pip must install beside MLflow."""

    scores: Mapping[str, float]
    """What the model reached, under metric names; the first one, if any, is what versions are compared by."""

    metadata: Mapping[str, Json]
    """Facts that stay with the model."""

    description: str
    """What the model is, as the end of a sentence, in Markdown."""

    usage: str
    """How a server of it, on port 5001 of this machine, is asked, in Markdown."""


class Event(Protocol):
    """One thing that a training or an evaluation tells; every rank yields the same events in the same order."""

    @property
    def kind(self) -> str:
        """One of step, progress, checkpoint, validated, finished.

        `step` comes after every iteration, and may come within a validation: a sign of life that is never recorded."""

    @property
    def step(self) -> int:
        """Iterations (images, in an evaluation) completed."""

    @property
    def total(self) -> int:
        """Iterations (images) in all."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metric name to value."""

    @property
    def artifacts(self) -> Mapping[str, bytes]:
        """Relative path to file content; filled on rank 0. `*.table.json` holds {columns: [...], data: [[...]]}."""

    @property
    def pictures(self) -> Mapping[str, bytes]:
        """For kind validated: name to PNG of what people look at over the steps of a training; filled on rank 0."""

    @property
    def save(self) -> Callable[[Path], None] | None:
        """For kind checkpoint: writes the complete state into a folder; valid until the next event."""

    @property
    def best(self) -> bool:
        """For kind checkpoint: the last validation is the best so far."""

    @property
    def wish(self) -> str:
        """For kind checkpoint: `save` or `stop` if the platform asked for it, else empty."""


class Workload(Protocol):
    """What the platform asks of a workload. Must be picklable: it travels to the workers."""

    def cells(self) -> Sequence[Cell]:
        """All cells of the grid, in the order of the published table."""

    def resolve(self, cell: Cell, overrides: Mapping[str, str], *, seed: int, data: str | None) -> Spec:
        """Complete a cell with overrides and the data it shall run on; raises ValueError with one clear sentence.

        `data` may be a location that holds the cell's data set or several; None resolves without data (for `recipes`
        and dry planning; the fingerprint is then empty). Nothing of the result depends on `seed` but `Spec.seed`."""

    def estimate(self, spec: Spec) -> Estimate:
        """What the spec needs."""

    def preflight(self, spec: Spec) -> Sequence[Problem]:
        """Everything that would make the spec fail, found without a worker."""

    def train(self, spec: Spec, resume: Path | None, *, cpus: int) -> Generator[Event, str | None, None]:
        """Train on every worker of a gang (torch.distributed is already set up there), from a checkpoint folder if
        one is given; `cpus` is what this worker may use. Takes wishes as answers to its events."""

    def evaluate(self, spec: Spec, checkpoint: Path, *, cpus: int) -> Iterator[Event]:
        """Evaluate a checkpoint folder on every worker of a gang; the last event carries the scores and artifacts."""

    def published(self, cell: Cell) -> Mapping[str, float] | None:
        """Published metrics of the cell under the same names as `evaluate` gives, or None."""

    def inputs(self, spec: Spec) -> Sequence[Input]:
        """What is known of the spec's data; raises whatever keeps it from being read."""

    def facts(self, cell: Cell) -> Facts:
        """Everything else that the published table says of the cell; of one that the workload no longer has, what its
        name and facets tell."""
