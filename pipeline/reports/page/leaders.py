"""Who is ahead: finished evaluations of equal data sets, splits and measures, the best first. Knows lines, no file."""

from collections import Counter
from collections.abc import Iterator, Sequence

from pipeline.finished import Line
from pipeline.reports.importance import METRICS
from pipeline.reports.page.blocks import Bar, Cell, Section, Table, slug
from pipeline.reports.page.gather import Found
from pipeline.reports.page.overview import DASH
from pipeline.tasks import TASKS

OPEN = 10  # rows that are shown at once


def leaderboard(found: Found) -> Iterator[Section]:
    """A part for each data set, split and measure of which there are two evaluations or more; nothing without any."""
    groups: dict[tuple[str, str, str], list[Line]] = {}
    for line in found.evaluations:
        task = TASKS[line.task or ""]
        # What linear probes are compared with is measured as they are, whatever its task.
        measure = task.judged if task.baselines else task.name
        groups.setdefault((line.dataset or DASH, line.split or DASH, measure), []).append(line)
    parts = [_part(*key, lines) for key, lines in groups.items() if len(lines) > 1]
    lead = (
        "Every finished evaluation that params refer to, the best first: results, variants of ablations and baselines. "
        "Each row is one training; means over seeds are among the ablations."
    )
    if parts:
        yield Section("leaderboard", "Leaderboard", [], lead, parts)


def _part(dataset: str, split: str, measure: str, lines: Sequence[Line]) -> Section:
    worth = lambda line: -float("inf") if (value := _value(line)) is None else value  # noqa: E731
    lines = sorted(lines, key=lambda line: (-worth(line), line.head, line.key, line.evaluation))
    names = Counter(METRICS[TASKS[line.task or ""].headline] for line in lines)
    name = names.most_common(1)[0][0]
    samples = Counter(line.evaluated for line in lines).most_common(1)[0][0]
    known = [edge for line in lines for edge in (_value(line), *_interval(line)) if edge is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    rows = [_row(line, low, high, samples, worth(line) == worth(lines[0])) for line in lines]
    drawn = f"{low:.3g} to {high:.3g} %"
    columns = ["evaluation", f"{name}, %", drawn, "95 % interval", "differs in", "seed", "trained"]
    caption = (
        f"{name} on the split {split} of {dataset}; lines are bootstrap intervals over the evaluated samples. What "
        "differs is said against the head as params have it; trained are its parameters."
    )
    blocks = [Table(columns, rows[:OPEN], caption)]
    if rest := rows[OPEN:]:
        blocks.append(Table(columns, rest, "Those behind the first, in the same way.", folded=f"the other {len(rest)}"))
    title = f"{dataset}, {split}: {name}"
    return Section(slug(f"leaders-{dataset}-{split}-{measure}"), title, blocks, contents=f"{dataset}, {split}")


def _row(line: Line, low: float, high: float, samples: str | None, first: bool) -> list[str | Cell]:
    value, edges = _value(line), _interval(line)
    at = lambda of: 100 * (of - low) / (high - low or 1)  # noqa: E731
    bar = None if value is None else Bar(at(value), None, *map(at, edges))
    apart = ", ".join([*(f"{key}: {of}" for key, of in line.differs.items()), *filter(None, [line.why])])
    name, *others = line.used
    also = "also " + "; ".join(others) if others else ""
    unlike = "" if line.evaluated == samples else "other samples than most rows have"
    return [
        Cell(name, title=f"{line.head}/{line.key}/{line.evaluation}", note=also),
        Cell(DASH if value is None else f"{value:.1f}", best=first and value is not None),
        Cell(bar=bar),
        f"{edges[0]:.1f} to {edges[1]:.1f}" if edges else DASH,
        Cell(apart or "nothing", tone="long" if apart else "faint", note=unlike),
        DASH if line.seed is None else str(line.seed),
        DASH if line.trainable is None else f"{line.trainable:,}",
    ]


def _value(line: Line) -> float | None:
    """The headline in percent."""
    task = TASKS[line.task or ""]
    value = line.figures.get(task.headline)
    return None if value is None else task.scale * value


def _interval(line: Line) -> list[float]:
    return [TASKS[line.task or ""].scale * edge for edge in line.ci95 or ()]
