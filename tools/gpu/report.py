"""Records of a run to a page in Markdown: a section a step, a table for each kind of row. Only the standard library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["markdown"]

Record = dict[str, Any]

_NOT_SHOWN = ("step", "kind", "table")


def markdown(records: Sequence[Record]) -> str:
    """Return the page."""
    lines = ["# On a GPU", ""]
    for step in dict.fromkeys(record["step"] for record in records):
        own = [record for record in records if record["step"] == step]
        lines += [*_section(step, own), ""]
    return "\n".join(lines)


def _section(step: str, records: Sequence[Record]) -> Iterator[str]:
    ends = [record for record in records if record["kind"] == "step"]
    title = ends[-1]["title"] if ends else f"{step}, not finished"
    yield f"## {title}"
    yield ""
    for end in ends:
        why = f": {_cell(end['error'])}" if end.get("error") else ""
        yield f"*{end['state']} in {end['seconds']:.0f} s{why}*"
        yield ""
    for record in records:
        if record["kind"] == "fact":
            yield f"- {record['name']}: {_cell(record['value'])}"
        elif record["kind"] == "aim":
            yield f"- **{'met' if record['met'] else 'NOT MET'}**: {record['text']}: {_cell(record['value'])}"
        elif record["kind"] == "failure":
            yield f"- no figure for {record['what']}: {_cell(record['error'])}"
    rows = [record for record in records if record["kind"] == "row"]
    for table in dict.fromkeys(row["table"] for row in rows):
        yield ""
        yield from _table(table, [row for row in rows if row["table"] == table])


def _table(title: str, rows: Sequence[Record]) -> Iterator[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row if name not in _NOT_SHOWN))
    yield f"**{title}**"
    yield ""
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(_cell(row.get(name, "")) for name in columns) + " |"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value))
    return str(value).replace("|", "\\|").replace("\n", " ")
