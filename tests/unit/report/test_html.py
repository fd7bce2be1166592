"""The report page."""

from __future__ import annotations

import base64
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourm.report import metrics, plots
from fourm.report.colors import palette
from fourm.report.html import Page
from fourm.report.scale import Scale

ATTACK = '<script>alert("x")</script> & "quotes"'
PICTURE = Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3))
VOID_TAGS = {"meta", "img", "br", "path", "use", "link", "stop"}


def full_page() -> Page:
    page = Page(f"Report {ATTACK}", f"Summary {ATTACK}")
    page.section(f"First {ATTACK}", f"Paragraph {ATTACK}")
    page.facts({f"name {ATTACK}": f"value {ATTACK}", "rooms": 4000})
    page.metrics(metrics.rows({"rgb_to_depth": {"abs_rel": 0.1, "baseline_abs_rel": 0.2}}))
    curve = plots.curves({f"loss {ATTACK}": ([0, 1], [2.0, 1.0])})
    page.charts(curve, curve, caption=f"Curves {ATTACK}")
    page.section("Second")
    page.grid([[PICTURE, f"a {ATTACK}", None]], columns=["RGB", "caption", ATTACK], rows=[f"room {ATTACK}"])
    page.legend(["floor", ATTACK])
    page.table(["name", ATTACK], [[ATTACK, "1"]])
    page.color_scale(Scale((0.25, 16.0), log=True))
    page.picture(PICTURE, f"Picture {ATTACK}")
    return page


class Structure(HTMLParser):
    """Checks that tags close in order; collects tags, ids and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID_TAGS:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID_TAGS:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def text() -> str:
    return full_page().render()


@pytest.fixture(scope="module")
def structure(text: str) -> Structure:
    parser = Structure()
    parser.feed(text)
    return parser


def test_the_page_is_well_formed_html5(text: str, structure: Structure) -> None:
    assert text.startswith("<!DOCTYPE html>")
    assert structure.open == []
    assert structure.tags.count("section") == 2


def test_ids_are_unique_and_links_lead_to_them(structure: Structure) -> None:
    assert len(structure.ids) == len(set(structure.ids))
    links = {value[1:] for name, value in structure.attributes if name == "href"}
    assert links
    assert links <= set(structure.ids)


def test_the_page_needs_nothing_from_outside(text: str, structure: Structure) -> None:
    assert not re.search(r"https?:|//[a-z]|@import", text)
    assert "script" not in structure.tags
    sources = [value for name, value in structure.attributes if name in ("src", "href", "xlink:href")]
    assert sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)


def test_texts_from_outside_are_escaped_everywhere(text: str) -> None:
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 12


def test_pictures_are_kept_without_loss(text: str) -> None:
    data = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)[0]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), np.asarray(PICTURE))


def test_pictures_say_what_they_show(structure: Structure) -> None:
    alternatives = [value for name, value in structure.attributes if name == "alt"]
    assert alternatives[0].endswith("RGB")
    assert all(alternatives)


def test_a_metric_stands_beside_its_baseline_and_its_meaning(text: str) -> None:
    line = next(line for line in re.findall(r"<tr>.*?</tr>", text) if "RGB to depth" in line)
    assert metrics.MEANINGS["abs_rel"].sentence in line
    assert line.index("0.100") < line.index("0.200")
    assert 'class="number value good"' in line


def test_a_result_worse_than_its_baseline_is_marked() -> None:
    page = Page("Report")
    page.metrics(metrics.rows({"rgb_to_depth": {"abs_rel": 0.3, "baseline_abs_rel": 0.2}}))
    assert 'class="number value bad"' in page.render()


def test_saving_makes_the_folder_and_leaves_one_file(tmp_path: Path) -> None:
    path = full_page().save(tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8") == full_page().render()
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_names_of_files_that_are_no_text_are_written_as_escapes(tmp_path: Path) -> None:
    page = Page(os.fsdecode(b"latin-\xe9"))
    assert r"latin-\udce9" in page.save(tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_failed_save_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(path: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("fourm.files.sync", fail)
    with pytest.raises(OSError, match="no space"):
        full_page().save(path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_columns_of_numbers_are_aligned_to_the_right() -> None:
    page = Page("t")
    page.table(["source", "samples", "note"], [["rgb", "1,200", "3 of them"], ["depth", "7 MB", "many"]])
    html = page.render()
    assert re.findall(r'<t[hd](?: scope="col")? class="number">(.*?)</t[hd]>', html) == ["samples", "1,200", "7 MB"]
    assert re.findall(r"<td>(.*?)</td>", html) == ["rgb", "3 of them", "depth", "many"]


def test_a_legend_of_some_classes_keeps_their_colours() -> None:
    page = Page("t")
    page.legend(["floor", "wall", "ceiling"], [2])
    red, green, blue = palette(3)[2].tolist()
    assert re.findall(r"<li>(.*?)</li>", page.render()) == [
        f'<i style="background:rgb({red},{green},{blue})"></i>ceiling'
    ]
