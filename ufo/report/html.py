"""The page of a report: one HTML file with its style, its script and its pictures inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from ufo.files import write_text
from ufo.report import tallies
from ufo.report.charts import bars, lines
from ufo.report.gather import AGAIN, EVIDENCE, Gathered, differences

FILE = "report.html"
PAGE = Path(__file__).parent / "page"
LARGEST = 48 << 20  # characters of pictures in one page; further ones are left out, and counted
MOST_CURVES = 12
MOST_CLASSES = 60  # rows of a table of classes
MOST_CONFUSED = 14  # classes of a table of pairs
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write(run: Gathered, versus: Gathered | None = None, out: Path | None = None) -> Path:
    """Write the report beside the evaluation, or to `out`.

    Raises OSError, and ValueError for what an evaluation has not written like this.
    """
    path = out or run.folder / FILE
    try:
        text = page(run, versus)
    except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{run.folder / EVIDENCE} is damaged ({error}): {AGAIN}") from error
    write_text(path, text)
    return path


def page(run: Gathered, versus: Gathered | None = None) -> str:
    """The whole page."""
    left = [LARGEST]  # characters of pictures that may still be shown
    if versus and versus.name == run.name:  # as of runs/a/digits and runs/b/digits
        versus = replace(versus, name=f"{versus.name} (the other)")
    title = f"{run.name} against {versus.name}" if versus else run.name
    parts = [
        f"<h1>{escape(title)}</h1>",
        _contents(run),
        _metrics(run, versus),
        _curves(run, versus),
        *(_source(name, found, left) for name, found in run.sources.items()),
        _differences(run, versus) if versus else "",
    ]
    if not run.sources:
        parts.append("<p>There are no pictures of an evaluation: <code>ufo evaluate</code> makes them.</p>")
    style = (PAGE / "report.css").read_text(encoding="utf-8")
    script = (PAGE / "report.js").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main>{''.join(parts)}</main><script>{script}</script></body></html>\n"
    )


# --- parts of the page


def _contents(run: Gathered) -> str:
    links = [f'<li><a href="#{_anchor(name)}">{escape(name)}</a></li>' for name in run.sources]
    return f"<nav aria-label='Sources'><ul>{''.join(links)}</ul></nav>" if links else ""


def _anchor(name: str) -> str:
    return "s-" + "".join(c if c.isalnum() else "-" for c in name)


def _metrics(run: Gathered, versus: Gathered | None) -> str:
    """Measured beside expected and trivial."""
    where = list(run.published)
    head = ["metric", "measured", *where, "trivial", *([versus.name] if versus else [])]
    names = sorted({*run.measured, *(n for numbers in run.published.values() for n in numbers)})
    rows = []
    for name in names:
        numbers = [
            run.measured.get(name),
            *(run.published[w].get(name) for w in where),
            run.trivial.get(name),
        ]
        rows.append([name, *map(_number, [*numbers, *([versus.measured.get(name)] if versus else [])])])
    note = "<p class='quiet'>trivial: an answer that has not looked at the image; -: not defined</p>"
    return f"<h2>Metrics</h2>{_table(head, rows)}{note}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _curves(run: Gathered, versus: Gathered | None) -> str:
    names = sorted(run.curves, key=lambda name: (not name.endswith("loss"), name))
    drawn = []
    for name in names[:MOST_CURVES]:
        both = {run.name: run.curves[name]}
        if versus and versus.curves.get(name):
            both[versus.name] = versus.curves[name]
        drawn.append(lines(name, both, "steps", ""))
    more = f"<p class='quiet'>and {len(names) - MOST_CURVES} more in its CSV file</p>" * (
        len(names) > MOST_CURVES
    )
    return f"<h2>Training</h2><div class='charts'>{''.join(drawn)}</div>{more}" if drawn else ""


def _source(name: str, source: Mapping[str, Any], left: list[int]) -> str:
    """One source: its charts, tables and pictures."""
    said, counts = source.get("said", {}), tallies.annotated(source)
    charts = [_faults(source), _recall(source), _precision_recall(said, counts), _calibration(said)]
    return (
        f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2>'
        f"<p>{int(source.get('images', 0))} images</p><div class='charts'>{''.join(charts)}</div>"
        f"{_classes(said, counts)}{_confusion(source)}{_pictures(name, source, left)}</section>"
    )


def _faults(source: Mapping[str, Any]) -> str:
    faults = dict(sorted(source.get("faults", {}).items(), key=lambda item: -item[1]))
    most = max(faults.values(), default=1)
    return bars("What is wrong, how often", {name: (n / most, str(n)) for name, n in faults.items()})


def _recall(source: Mapping[str, Any]) -> str:
    sizes = tallies.by_size(source)
    return bars(
        "Found, by size", {size: (f / n if n else 0.0, f"{f} of {n}") for size, (f, n) in sizes.items()}
    )


def _precision_recall(said: Mapping[str, Any], counts: Mapping[str, tuple[int, int]]) -> str:
    whole = tallies.total(said)
    if whole is None:
        return ""
    curves = {"all": tallies.precision_recall(whole, sum(n for _, n in counts.values()))}
    frequent = [name for name in counts if name in said][:5]
    if len(counts) > 1:
        curves |= {name: tallies.precision_recall(said[name], counts[name][1]) for name in frequent}
    return lines("Precision and recall, IoU 0.5", curves, "recall", "precision", unit=True)


def _calibration(said: Mapping[str, Any]) -> str:
    whole = tallies.total(said)
    if whole is None:
        return ""
    points = tallies.calibration(whole)
    return lines("Calibration", {"": points}, "score", "share that is right", unit=True, diagonal=True)


def _classes(said: Mapping[str, Any], counts: Mapping[str, tuple[int, int]]) -> str:
    rows = []
    for name, (found, number) in list(counts.items())[:MOST_CLASSES]:
        right, told = tallies.precision(said[name]) if name in said else (0, 0)
        curve = tallies.precision_recall(said[name], number) if name in said else []
        share = [found / number if number else None, right / told if told else None]
        rows.append([name, str(number), *map(_number, [*share, tallies.average_precision(curve)])])
    head = ["class", "annotated", "found", f"precision at {tallies.CERTAIN}", "AP50"]
    more = len(counts) - MOST_CLASSES
    note = f"<p class='quiet'>and {more} rarer classes</p>" if more > 0 else ""
    return f"<h3>Classes</h3>{_table(head, rows)}{note}" if rows else ""


def _confusion(source: Mapping[str, Any]) -> str:
    """Annotated classes in rows, what was said in columns; each row's shares."""
    pairs = source.get("pairs", {})
    rows = sorted(pairs, key=lambda name: -sum(pairs[name].values()))[:MOST_CONFUSED]
    if not rows:
        return ""
    weights: dict[str, float] = {}
    for name in rows:
        for other, weight in pairs[name].items():
            weights[other] = weights.get(other, 0.0) + weight
    others = [name for name in sorted(weights, key=lambda n: -weights[n]) if name not in rows]
    columns = [name for name in rows if name in weights] + others[: MOST_CONFUSED // 2]
    lines_ = []
    for name in rows:
        whole = sum(pairs[name].values()) or 1.0
        cells = "".join(_cell(pairs[name].get(other, 0.0) / whole, name == other) for other in columns)
        lines_.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    return (
        "<h3>Confusion</h3><div class='wide'><table><caption>annotated in rows, said in columns</caption>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines_)}</tbody></table></div>"
    )


def _cell(share: float, right: bool) -> str:
    rgb = "0,158,115" if right else "213,94,0"
    style = f"background:rgba({rgb},{0.6 * share:.2f})"
    return f'<td class="number" style="{style}">{f"{share:.0%}" if share else ""}</td>'


def _pictures(name: str, source: Mapping[str, Any], left: list[int]) -> str:
    cards, hidden = [], 0
    pictures = source.get("pictures", [])
    for picture in pictures:
        address = str(picture.get("picture", ""))
        if not address.startswith("data:image/") or len(address) > left[0]:
            hidden += 1
            continue
        left[0] -= len(address)
        cards.append(_card(picture, address))
    if not cards:
        return ""
    classes = sorted({str(n) for picture in pictures for n in picture.get("names", ())})
    faults = sorted({str(f) for picture in pictures for f in picture.get("faults", ())})
    choices = _choice("class", classes) + _choice("error", faults)
    more = f"<p class='quiet'>{hidden} pictures are left out, as the page would grow too large</p>" * bool(
        hidden
    )
    said = "Pictures, the worst first; truth on the left, prediction on the right"
    return (
        f"<h3>{said}</h3><form class='filter'>{choices}<output aria-live='polite'></output></form>"
        f"<div class='cards'>{''.join(cards)}</div>{more}"
    )


def _choice(name: str, values: Sequence[str]) -> str:
    if not values:
        return ""
    options = "".join(f'<option value="{escape(v)}">{escape(v)}</option>' for v in values)
    return f'<label>{name} <select name="{name}"><option value="">any</option>{options}</select></label> '


def _card(picture: Mapping[str, Any], address: str) -> str:
    names = escape("\n".join(map(str, picture.get("names", ()))))
    faults = escape("\n".join(map(str, picture.get("faults", ()))))
    file, said = escape(str(picture.get("file", ""))), escape(str(picture.get("said", "")))
    wrong = escape(", ".join(map(str, picture.get("faults", ()))) or "nothing wrong")
    return (
        f'<figure data-class="{names}" data-error="{faults}">'
        f'<img loading="lazy" src="{escape(address)}" alt="{said}">'
        f"<figcaption><b>{file}</b>, score {float(picture.get('score', 0)):.2f}: {wrong}<br>{said}"
        "</figcaption></figure>"
    )


def _differences(run: Gathered, versus: Gathered) -> str:
    rows = [list(row) for row in differences(run, versus)]
    table = _table(["key", run.name, versus.name], rows) if rows else "<p>The configs are the same.</p>"
    return f"<h2>Differences of the configs</h2>{table}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names the rows."""
    titles = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<div class='wide'><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
