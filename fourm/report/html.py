"""A report in one HTML file: no script, no network, readable in light and dark."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from fourm.files import publish
from fourm.report.colors import color_scale, palette
from fourm.report.metrics import MetricRow, format_value
from fourm.report.scale import Scale

Cell = Image.Image | str | None
_NUMBER = re.compile(r"[\d.,]+( \w+)?")


class Page:
    """Sections of text, facts, metrics, charts and pictures, written from top to bottom.

    All text is escaped: captions and labels may hold anything.

    Args:
        title: heading and window title.
        summary: one or two sentences below the heading.
    """

    def __init__(self, title: str, summary: str = "") -> None:
        self.title = title
        self.summary = summary
        self._sections: list[tuple[str, list[str]]] = []
        self._num_charts = 0

    def section(self, title: str, *paragraphs: str) -> None:
        """Start a section; what is added next belongs to it.

        Args:
            title: its heading, also in the table of contents.
            paragraphs: text below the heading.
        """
        self._sections.append((title, []))
        self.text(*paragraphs)

    def text(self, *paragraphs: str) -> None:
        """Add paragraphs."""
        for paragraph in paragraphs:
            self._add(f"<p>{escape(paragraph)}</p>")

    def facts(self, facts: Mapping[str, object]) -> None:
        """Add short facts, each with its name: device, parameters, time taken."""
        entries = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items()
        )
        self._add(f'<dl class="facts">{entries}</dl>')

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        """Add a table of results beside what they are compared with; see `metrics.rows`."""
        if not rows:
            return
        references = list(dict.fromkeys(name for row in rows for name in row.references))
        bounds = list(dict.fromkeys(name for row in rows for name in row.bounds))
        heads = "".join(
            f'<th scope="col" class="number">{escape(name)}</th>' for name in ["result", *references, *bounds]
        )
        lines = "".join(_metric_line(row, references, bounds) for row in rows)
        self._add(
            '<div class="scroll"><table class="metrics"><thead><tr><th scope="col">task and metric</th>'
            f"{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
        )

    def table(self, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
        """Add a table of words and numbers; columns of numbers are aligned to the right.

        Args:
            columns: name of each column.
            lines: their cells.
        """
        numeric = [all(_NUMBER.fullmatch(line[place]) for line in lines) for place in range(len(columns))]
        kinds = [' class="number"' if number else "" for number in numeric]
        heads = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(columns, kinds, strict=True))
        body = "".join(
            "<tr>" + "".join(f"<td{k}>{escape(cell)}</td>" for cell, k in zip(line, kinds, strict=True)) + "</tr>"
            for line in lines
        )
        self._add(
            f'<div class="scroll"><table class="metrics"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
            "</div>"
        )

    def charts(self, *svgs: str, caption: str = "") -> None:
        """Add charts side by side.

        Args:
            svgs: SVG texts, as from `plots.curves` and `plots.bars`.
            caption: line below them.
        """
        drawn = "".join(f'<div class="chart">{self._scoped(svg)}</div>' for svg in svgs)
        self._add(f'<figure><div class="charts">{drawn}</div>{_caption(caption)}</figure>')

    def picture(self, picture: Image.Image, caption: str = "", *, alt: str = "") -> None:
        """Add one picture at its own size.

        Args:
            picture: any image.
            caption: line below it.
            alt: what it shows, for those who cannot see it; the caption by default.
        """
        self._add(f'<figure class="picture">{_image_tag(picture, alt or caption)}{_caption(caption)}</figure>')

    def grid(
        self,
        cells: Sequence[Sequence[Cell]],
        *,
        columns: Sequence[str] = (),
        rows: Sequence[str] = (),
        caption: str = "",
    ) -> None:
        """Add pictures and texts in rows and columns; text stays text, and can be selected and searched.

        Args:
            cells: one sequence per row; images, captions, or None for an empty place.
            columns: name of each column.
            rows: name of each row.
            caption: line below the grid.
        """
        corner = '<th scope="col"></th>' if rows else ""
        heads = corner + "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
        head = f"<thead><tr>{heads}</tr></thead>" if columns else ""
        lines = []
        for number, row in enumerate(cells):
            name = rows[number] if number < len(rows) else ""
            label = f'<th scope="row">{escape(name)}</th>' if rows else ""
            # The names of row and column say what a picture shows to those who cannot see it.
            names = [f"{name} {columns[place] if place < len(columns) else ''}".strip() for place in range(len(row))]
            places = "".join(_grid_cell(cell, alt) for cell, alt in zip(row, names, strict=True))
            lines.append(f"<tr>{label}{places}</tr>")
        # About as wide as the page, and in steps that keep small pictures sharp.
        widest = max((len(row) for row in cells), default=1)
        cell = 192 if widest <= 5 else 128 if widest <= 7 else 112
        table = f'<table class="grid" style="--cell:{cell}px">{head}<tbody>{"".join(lines)}</tbody></table>'
        self._add(f'<figure><div class="scroll">{table}</div>{_caption(caption)}</figure>')

    def legend(self, names: Sequence[str], present: Sequence[int] | None = None) -> None:
        """Add the colours of class labels, in the palette of `maps.labels`.

        Args:
            names: of all classes.
            present: ids to list; by default all.
        """
        colors = palette(len(names)).tolist()
        entries = "".join(
            f'<li><i style="background:rgb({",".join(map(str, colors[i]))})"></i>{escape(names[i])}</li>'
            for i in (range(len(names)) if present is None else present)
        )
        self._add(f'<ul class="legend">{entries}</ul>')

    def color_scale(self, scale: Scale) -> None:
        """Add the colours of measured values, as used by `maps.measured`, with the values where they are."""
        stops = ",".join(f"rgb({red},{green},{blue})" for red, green, blue in color_scale(scale.colors, 9).tolist())
        ticks = "".join(
            f'<span style="left:{100 * share:.4g}%">{escape(value)}</span>' for share, value in scale.ticks()
        )
        self._add(f'<div class="ramp"><i style="background:linear-gradient(90deg,{stops})"></i>{ticks}</div>')

    def render(self) -> str:
        """The whole page as text."""
        style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
        links = "".join(
            f'<a href="#part-{number}">{escape(title)}</a>' for number, (title, _) in enumerate(self._sections) if title
        )
        body = "\n".join(
            f'<section id="part-{number}">\n'
            + (f"<h2>{escape(title)}</h2>\n" if title else "")
            + "\n".join(parts)
            + "\n</section>"
            for number, (title, parts) in enumerate(self._sections)
        )
        summary = f"<p>{escape(self.summary)}</p>" if self.summary else ""
        contents = f'<nav aria-label="Contents">{links}</nav>' if len(self._sections) > 1 else ""
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
            f"<header><h1>{escape(self.title)}</h1>{summary}{contents}</header>\n{body}\n</main>\n</body>\n</html>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write the page; a reader never sees half of it.

        Args:
            path: the file; its folder is made.

        Returns:
            The path.
        """
        # Names of files may hold bytes that are no text: these are written as `\udce9`.
        publish(Path(path), self.render().encode(errors="backslashreplace"))
        return Path(path)

    def _add(self, markup: str) -> None:
        if not self._sections:
            self._sections.append(("", []))
        self._sections[-1][1].append(markup)

    def _scoped(self, svg: str) -> str:
        """`svg` with ids of its own: those of two charts on one page would clash."""
        self._num_charts += 1
        prefix = f"chart{self._num_charts}-"
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
        svg = re.sub(r'\sid="([^"]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", svg)
        svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", svg)
        # Names of XML namespaces look like links out of the page, and HTML does not need them.
        return re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")


def _metric_line(row: MetricRow, references: Sequence[str], bounds: Sequence[str]) -> str:
    """One line of the metrics table; the result is coloured by whether it beats every reference."""
    unit = row.meaning.unit
    verdict = {True: " good", False: " bad", None: ""}[row.beats_all]
    others = "".join(
        f'<td class="number">{format_value(values[name], unit) if name in values else ""}</td>'
        for names, values in ((references, row.references), (bounds, row.bounds))
        for name in names
    )
    arrow = f"{row.meaning.better} is better"
    return (
        f"<tr><td><strong>{escape(row.task)}</strong>: {escape(row.meaning.title)} ({arrow})"
        f'<small>{escape(row.meaning.sentence)}</small></td><td class="number value{verdict}">'
        f"{format_value(row.value, unit)}</td>{others}</tr>"
    )


def _grid_cell(cell: Cell, alt: str) -> str:
    if cell is None:
        return "<td></td>"
    return f"<td><p>{escape(cell)}</p></td>" if isinstance(cell, str) else f"<td>{_image_tag(cell, alt)}</td>"


def _image_tag(picture: Image.Image, alt: str) -> str:
    """The picture inside the page, losslessly."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    size = f'width="{picture.width}" height="{picture.height}"'
    # Enlarged pixels stay squares; large pictures with lines and letters are better scaled smoothly.
    sharp = ' class="sharp"' if max(picture.size) <= 96 else ""
    return f'<img{sharp} src="data:image/png;base64,{data}" {size} alt="{escape(alt)}">'


def _caption(caption: str) -> str:
    return f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
