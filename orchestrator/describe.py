"""What a person reads first of a run: its description in Markdown, as MLflow's UI renders it. Pure.

The first line says how the trial stands; `restated` replaces it when only that has changed. Addresses that begin with
`artifact:` are paths of the run's own artifacts; `orchestrator.notes` turns them into those of its pages.
"""

from __future__ import annotations

import itertools
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Final

from orchestrator.plan import PlannedTrial
from orchestrator.report import Report, text
from orchestrator.report.rows import MEMORY, SCORE, SCORE_MS_FLIP, SPEED, Row, Trial
from orchestrator.report.verdict import MEANINGS, VERDICTS
from orchestrator.settings import Settings
from orchestrator.workload import Facts, Json

__all__ = ["benchmark_note", "restated", "trial_note", "without_secrets"]

LABELS: Final[Mapping[str, str]] = {
    SCORE: "mIoU", SCORE_MS_FLIP: "mIoU (ms+flip)", MEMORY: "training memory (GB)", SPEED: "inference (images/s)",
}  # fmt: skip
_INTERRUPTED: Final = "\u25a0"
_LENGTH: Final = 7400
"""Longest description of a benchmark, in characters: a tag has 8,000, addresses of artifacts grow when they become
those of pages, and people may add to it."""


def trial_note(
    planned: PlannedTrial,
    settings: Settings,
    provenance: Mapping[str, Json],
    trial: Trial,
    published: Mapping[str, float],
    facts: Facts,
    advice: str | None = None,
) -> str:
    """Return the description of a trial's run; `trial` says how far it is, `advice` what to do about its failure."""
    spec = planned.spec
    scores = dict.fromkeys((*published, *(name for name in LABELS if name in trial.metrics)))
    ended = trial.state == "finished"
    lines = [_standing(trial, published, advice), "", _what(planned, facts)]
    if scores:
        lines += ["", "| | published | reproduced | gap |", "|:---|---:|---:|---:|"]
        lines += [_score_line(name, trial, published, ended=ended) for name in scores]
        if published and facts.device:
            lines += ["", f"Published memory and speed are of a {facts.device}."]
    if trial.reasons and published:
        lines += ["", "Not comparable with the published numbers, because", "", *_items(trial.reasons)]
    lines += ["", "**Where**", "", *_items(_places(planned, settings, provenance, facts, ended=ended))]
    return "\n".join([*lines, f"- data: {_code(without_secrets(spec.data))}, fingerprint {_code(_digest(planned))}"])


def restated(note: str, verdict: str, why: str) -> str:
    """Return a description with another first line."""
    _, newline, rest = note.partition("\n")
    return f"{_INTERRUPTED} **{verdict}**: {_plain(why)}{newline}{rest}"


def benchmark_note(report: Report, where: str) -> str:
    """Return the description of a benchmark's summary run: its leaderboard with links to the runs.

    `where`: the address of the report, which holds the rest.
    """
    head = ["| | mIoU | published | gap | ms+flip | verdict |", "|:---|---:|---:|---:|---:|:---|"]
    rows = [_row_line(row) for row in report.rows]
    reasons = [f"Not comparable: {_plain(reason)}" for reason in report.shared_reasons]
    places = [f"report: [as it was](artifact:report.html), the newest is {_code(without_secrets(where))}"]
    begin, end = [f"{_plain(report.summary)}.", "", *head], ["", *_items([*places, *reasons])]
    room = _LENGTH - sum(len(line) + 1 for line in (*begin, *end))
    kept = sum(length <= room for length in itertools.accumulate(len(row) + 1 for row in rows))
    more = [] if kept == len(rows) else ["", f"{len(rows) - kept} more rows are in the report."]
    return "\n".join([*begin, *rows[:kept], *more, *end])


def without_secrets(uri: str) -> str:
    """Return an address without user, password and query; a path as it is."""
    parts = urllib.parse.urlsplit(uri)
    if not parts.scheme or not parts.netloc:
        return uri
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _standing(trial: Trial, published: Mapping[str, float], advice: str | None) -> str:
    verdict = trial.verdict(published)
    what = f"{VERDICTS[verdict]} **{verdict}**"
    ours, gap = trial.metrics.get(SCORE), trial.gap(published)
    match trial.state:
        case "finished" if gap is not None:
            told = "for the reasons below" if trial.reasons else MEANINGS[verdict]
            return f"{what}: mIoU {ours:.2f}, published {published[SCORE]:.2f}, gap {gap:+.2f} ({told})"
        case "finished" if ours is not None:
            return f"{what}: mIoU {ours:.2f}"
        case "running":
            return f"{what}: its curves are under *Model metrics*, its log is [here](artifact:logs/rank0.log)"
        case "failed":
            reason = text.first_line(trial.error or "no reason is known")
            return "; ".join([f"{what}: {_code(reason)}", *([_plain(advice)] if advice else [])])
    why = [_code(text.first_line(trial.error))] if trial.error else []
    return "; ".join([f"{what}: {MEANINGS[verdict]}", *why])


def _what(planned: PlannedTrial, facts: Facts) -> str:
    spec = planned.spec
    known = [f"{name} {value}" for name, value in (facts.columns or spec.cell.facets).items()]
    told = [*([facts.section] if facts.section else []), *known, f"seed {spec.seed}"]
    drawn = [f"{name} {value}" for name, value in spec.sample.items()]
    return f"{_code(spec.cell.name)}: {_plain(', '.join([*told, *drawn]))}"


def _score_line(name: str, trial: Trial, published: Mapping[str, float], *, ended: bool) -> str:
    gap = trial.gap(published, name) if name in (SCORE, SCORE_MS_FLIP) else None
    ours = text.number(trial.metrics.get(name)) if ended else ""
    cells = [LABELS.get(name, name), text.number(published.get(name)), ours, "" if gap is None else f"{gap:+.2f}"]
    return "| " + " | ".join(cell or "\u2013" for cell in cells) + " |"


def _places(
    planned: PlannedTrial, settings: Settings, provenance: Mapping[str, Json], facts: Facts, *, ended: bool
) -> list[str]:
    spec, storage = planned.spec, without_secrets(settings.storage)
    commit = str(provenance.get("git_commit") or "")[:12]
    code = (_code(commit) if commit else "of no commit") + (" with changes" if provenance.get("git_dirty") else "")
    links = [f"[{name}]({address})" for name, address in facts.links.items()]
    checkpoints = ["[best](artifact:checkpoints/best), [last](artifact:checkpoints/last) and "] if ended else [""]
    return [
        *([f"results: {', '.join(f'[{name}](artifact:{path})' for name, path in facts.results.items())}"]
          if ended and facts.results else []),
        f"checkpoints: {checkpoints[0]}{_code(f'{storage}/trials/{planned.key}/checkpoints')}",
        "logs: [rank 0](artifact:logs/rank0.log), [all](artifact:logs)",
        f"recipe: [every setting](artifact:config/recipe.yaml){'; published ' + ', '.join(links) if links else ''}",
        f"report: {_code(f'{storage}/reports/{settings.benchmark}/report.html')}",
        f"code: {code}, version {_code(spec.code_version)} of the numbers; [origin](artifact:provenance)",
    ]  # fmt: skip


def _row_line(row: Row) -> str:
    name = _plain(" ".join(row.facets.values()) or row.cell)
    # The page may be reached under another name than the launch knows; within it only what follows # tells the run.
    page = next((trial.run_url.partition("#")[2] for trial in (*row.counted, *row.trials) if trial.run_url), "")
    ours, flipped = (text.number(None if score is None else score.mean) for score in (row.score, row.score_ms_flip))
    cells = [
        f"[{name}](#{page})" if page else name,
        ours,
        text.number(row.published.get(SCORE)),
        text.gap(row, row.gap),
        flipped,
        f"{VERDICTS[row.verdict]} {row.verdict}",
    ]
    return "| " + " | ".join(cell or "\u2013" for cell in cells) + " |"


def _items(sentences: Iterable[str]) -> list[str]:
    return [f"- {sentence}" for sentence in sentences]


def _digest(planned: PlannedTrial) -> str:
    return planned.spec.data_fingerprint[:12]


def _code(value: str) -> str:
    """A value as it is: in a code span nothing is Markdown."""
    return f"`{' '.join(value.split()).replace('`', chr(39))}`"


def _plain(value: str) -> str:
    return " ".join(value.split()).replace("<", "&lt;").replace("|", "\\|")
