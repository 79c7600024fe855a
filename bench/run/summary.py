"""The report as text: one table of the sweep, everything that did not pass, one line with the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from asd.measurement.records import Cell, Run
from bench.gate.verdicts import Finding, Report, Verdict
from bench.run.tables import table

__all__ = ["render", "render_markdown"]

_SHOWN = (("quality", "quality", ".3f"), ("cost", "cost", ".3f"), ("latency", "speedup", ".2f"))


_COLUMNS = (
    ("hardware", "speedup", "speed-up", ".2f"),
    ("frontier", "relative_quality", "of L's quality", ".3f"),
    ("frontier", "cost", "cost", ".3f"),
    ("hardware", "device_s", "device-s a query", ".4g"),
    ("hardware", "queries_per_s", "queries/s", ".4g"),
    ("hardware", "ttft_s", "TTFT s", ".4g"),
    ("hardware", "memory_mib", "weights MiB", ".4g"),
    ("hardware", "batch", "batch", ".0f"),
)
"""Suite, metric, title and form."""

_ROUNDING = 1e-9

Row = tuple[str, str, float | None]
"""Dataset, policy, lambda."""


def render(run: Run, report: Report, *, verbose: bool = False) -> str:
    """Table, findings, warnings and verdict.

    Args:
        run: What was measured.
        report: What the gate says about it.
        verbose: Show rivals that have a lambda as well, at every lambda.
    """
    tables = [_table(run, report, verbose=verbose), _settings_table(run)]
    parts = [*tables, *_failures(report), *_notes(run, report), _verdict_line(report)]
    return "\n".join(part for part in parts if part)


def render_markdown(run: Run, report: Report) -> str:
    """The same in Markdown, for the summary page of a CI job."""
    title = f"## {run.header.ladder.name} on {run.header.hardware.slug}"
    lines = [_verdict_line(report), *_failures(report), *_notes(run, report)]
    tables = [_table(run, report, verbose=False, markdown=True), _settings_table(run, markdown=True)]
    parts = [part for table in tables if table for part in (table, "")]
    return "\n".join([title, "", *parts, *(f"- {line}" for line in lines), ""])


def _table(run: Run, report: Report, *, verbose: bool, markdown: bool = False) -> str:
    """One row a dataset and policy: quality, cost and speed-up beside the baseline's; stage mix; verdict."""
    cells = {cell.id: cell for cell in run.cells}
    rows = [row for row in _rows(run) if verbose or row[1] == "optimal" or row[2] is None]
    headers = ["dataset", "policy", "lam"]
    for _, name, _ in _SHOWN:
        headers += [name, "was", "delta"]
    headers += ["stage mix", "verdict"]
    return table(headers, [_row(cells, report, row) for row in rows], markdown=markdown)


def _settings_table(run: Run, *, markdown: bool = False) -> str:
    """One row a named setting, over all datasets: what it keeps, saves and takes; the largest stage first."""
    cells = {cell.id: cell for cell in run.cells}
    names = [cell.policy for cell in run.cells if cell.suite == "hardware"]
    rows = [
        [name, *(_shown(cells.get(f"{suite}[{name}]"), metric, form) for suite, metric, _, form in _COLUMNS)]
        for name in names
    ]
    headers = ["all datasets", *(title for _, _, title, _ in _COLUMNS)]
    return "\n" + table(headers, rows, markdown=markdown) if rows else ""


def _shown(cell: Cell | None, name: str, form: str) -> str:
    metric = cell.metric(name) if cell else None
    return "" if metric is None else f"{metric.value:{form}}"


def _rows(run: Run) -> list[Row]:
    """By dataset in the order of the run: the adaptive policy first, then single stages, then the rest."""
    found = {(c.dataset, c.policy, c.lam) for c in run.cells if c.suite == "quality" and c.dataset}
    order = [dataset.name for dataset in run.datasets]
    return sorted(
        found,
        key=lambda row: (order.index(row[0]), row[1] != "optimal", row[2] is not None, row[1], row[2] or 0.0),
    )


def _row(cells: dict[str, Cell], report: Report, where: Row) -> list[str]:
    dataset, policy, lam = where
    row, findings = [dataset, policy, "" if lam is None else f"{lam:g}"], []
    for suite, name, form in _SHOWN:
        finding = report.of(_id(suite, where), name)
        row += _numbers(cells.get(_id(suite, where)), name, finding, form)
        findings.append(finding)
    findings.append(report.of(_id("frontier", where), "retreat"))
    verdicts = [finding.verdict for finding in findings if finding is not None]
    worst = str(max(verdicts, key=lambda verdict: verdict.severity)) if verdicts else ""
    return [*row, _mix(cells.get(_id("cost", where))), worst]


def _numbers(cell: Cell | None, name: str, finding: Finding | None, form: str) -> list[str]:
    metric = cell.metric(name) if cell else None
    if metric is None:
        return ["", "", ""]
    was = finding.baseline if finding else None
    now = finding.current if finding and finding.current is not None else metric.value
    if was is None:
        return [f"{now:{form}}", "", ""]
    return [f"{now:{form}}", f"{was:{form}}", f"{now - was:+{form}}"]


def _mix(cell: Cell | None) -> str:
    shares = [metric for metric in cell.metrics if metric.name.startswith("share_")] if cell else []
    return " ".join(f"{metric.name.removeprefix('share_')} {metric.value:.0%}" for metric in shares)


def _failures(report: Report) -> Iterator[str]:
    """Everything worse than PASS and NEW, worst first; what cannot be judged only by its reason."""
    bad = [f for f in report.findings if f.verdict.severity > Verdict.NEW.severity]
    for finding in sorted(bad, key=lambda f: -f.verdict.severity):
        if finding.verdict is not Verdict.CANNOT_JUDGE:
            yield _line(finding)
    reasons = Counter(f.note for f in bad if f.verdict is Verdict.CANNOT_JUDGE)
    for reason, count in reasons.most_common():
        yield f"{Verdict.CANNOT_JUDGE}: {count} metrics: {reason}"


def _line(finding: Finding) -> str:
    numbers = ""
    if finding.baseline is not None and finding.current is not None:
        numbers = f": {finding.baseline:.4g} -> {finding.current:.4g}"
    interval = ""
    if finding.loss is not None:
        interval = f", loss {finding.loss.estimate:+.3g} [{finding.loss.low:+.3g}, {finding.loss.high:+.3g}]"
    note = f" ({finding.note})" if finding.note else ""
    return f"{finding.verdict}: {finding.cell} {finding.metric}".rstrip() + numbers + interval + note


def _notes(run: Run, report: Report) -> Iterator[str]:
    for warning in report.warnings:
        yield f"note: {warning}"
    if modes := run.header.step_modes:
        yield f"decode steps: {', '.join(f'{stage} {mode}' for stage, mode in modes.items())}"
    for cell in run.cells:
        metric = cell.metric("distinct_policies")
        if metric is not None and metric.value < 4:
            yield f"note: the sweep on {cell.dataset} has only {metric.value:g} distinct policies"
        if cell.suite in {"frontier", "rivals"} and cell.dataset is None:
            shown = ", ".join(f"{m.name} {m.value:.3g}" for m in cell.metrics)
            yield f"headline {cell.policy}: {shown}"
        cost = cell.metric("cost") if cell.suite == "frontier" and cell.dataset is None else None
        if cost is not None and cell.policy.startswith("optimal@") and cost.value >= 1.0 - _ROUNDING:
            yield f"note: {cell.policy} saves nothing: {cost.value:.3g} of what the largest stage alone costs"


def _verdict_line(report: Report) -> str:
    counts = Counter(finding.verdict for finding in report.findings)
    parts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    return f"gate: {report.verdict} (exit code {report.exit_code}): {parts}"


def _id(suite: str, where: Row) -> str:
    dataset, policy, lam = where
    return Cell(suite=suite, policy=policy, dataset=dataset, lam=lam, metrics=()).id
