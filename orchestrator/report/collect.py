"""From the ledger and the workload's published facts to the rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrator.ledger import Entry, Ledger, TrialRecord
from orchestrator.report.rows import Row, Trial
from orchestrator.shown import Exhibit
from orchestrator.workload import Cell, Workload

__all__ = ["collect"]


def collect(
    ledger: Ledger,
    benchmark: str,
    workload: Workload,
    *,
    run_url: Callable[[str], str | None] = lambda _: None,
    drawn: bool = False,
    every_cell: bool = False,
) -> list[Row]:
    """Return one row per cell of a benchmark in the workload's order; cells that it no longer has follow.

    `run_url` turns a run id into the address of its page; `drawn` reads what the page draws, too: pictures, curves and
    tables; with `every_cell` cells without a trial are rows too. Raises StorageError.
    """
    known = {cell.name: cell for cell in workload.cells()}
    entries: dict[str, list[Entry]] = {name: [] for name in known} if every_cell else {}
    for entry in ledger.benchmark(benchmark):
        entries.setdefault(entry.cell, []).append(entry)
    keys = [entry.key for several in entries.values() for entry in several]
    records = ledger.trials(keys)
    pictures, exhibits = (ledger.pictures(keys), ledger.exhibits(keys)) if drawn else ({}, {})
    order = {name: place for place, name in enumerate(known)}
    rows = []
    for name in sorted(entries, key=lambda name: order.get(name, len(order))):
        cell = known.get(name) or Cell(name=name, facets=entries[name][0].facets)
        published = workload.published(cell) if name in known else None
        trials = [
            _trial(entry, records[entry.key], pictures.get(entry.key, {}), exhibits.get(entry.key, Exhibit()), run_url)
            for entry in sorted(entries[name], key=lambda entry: entry.seed)
        ]
        rows.append(
            Row(
                cell=name,
                facets=cell.facets,
                facts=workload.facts(cell),
                published=published or {},
                trials=tuple(trials),
            )
        )
    return rows


def _trial(
    entry: Entry,
    record: TrialRecord,
    pictures: Mapping[str, bytes],
    exhibit: Exhibit,
    run_url: Callable[[str], str | None],
) -> Trial:
    progress = record.progress or {}
    return Trial(
        cell=entry.cell,
        key=entry.key,
        seed=entry.seed,
        state=record.state,
        metrics=record.metrics,
        not_comparable=tuple((record.spec or record.result or {}).get("not_comparable", ())),
        step=progress.get("step"),
        total=progress.get("total"),
        error=(record.result or {}).get("error") if record.state == "failed" else None,
        sample=(record.spec or {}).get("sample") or {},
        warning=record.warning,
        device=record.device,
        run_url=run_url(record.run_id) if record.run_id else None,
        pictures=pictures,
        exhibit=exhibit,
    )
