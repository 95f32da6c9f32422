"""A figure taken along: colours written out, numbers that no spreadsheet computes."""

import csv
import io
from xml.etree import ElementTree

import pytest

from pelican.report.figure import Table, standalone
from pelican.report.svg import Svg, colour, legend_rows, shade

SPACE = "{http://www.w3.org/2000/svg}"


def drawing() -> Svg:
    figure = Svg(300, 100, "made")
    figure.circle(10, 10, 4, "dot", colour("rl"), "a tip with <angles> & more")
    figure.rect(0, 0, 10, 10, "fill", shade(1, 3))
    figure.path([(0, 0), (1, 1), (2, 0)], "web base", colour("base"), close=True)
    figure.text(5, 5, "label <b>", "label")
    return figure


def test_colours_and_looks_are_written_out():
    text = standalone(str(drawing().markup()), "Title & more", [("a", colour("rl"), "dot")])
    root = ElementTree.fromstring(text.encode())
    circle = root.find(f"{SPACE}circle")
    assert circle.attrib["fill"] == "#2f6fb4" and circle.attrib["stroke"] == "#ffffff"
    filled = [r.attrib["fill"] for r in root.iter(f"{SPACE}rect")]
    assert filled[1] not in ("#cfdcea", "#1d4f8a") and filled[1].startswith("#")
    path = root.find(f"{SPACE}path")
    assert path.attrib["fill"] == "none" and path.attrib["stroke-dasharray"] == "5 3"
    assert "var(" not in text and "class=" not in text and "color-mix" not in text
    words = [t.text for t in root.iter(f"{SPACE}text")]
    assert {"Title & more", "label <b>", "a"} <= set(words)


@pytest.mark.parametrize("code", [0, 1, 8, 11, 27, 31, 0xFFFE, 0xD800])
def test_a_character_that_xml_lacks_is_replaced(code):
    figure = Svg(10, 10, f"a{chr(code)}b")
    figure.text(1, 1, f"<{chr(code)}>")
    figure.circle(1, 1, 1, tip=f"{chr(code)}")
    text = standalone(str(figure.markup()), f"t{chr(code)}", [(f"l{chr(code)}", "", "dot")])
    root = ElementTree.fromstring(text.encode())
    assert {"<\ufffd>", "t\ufffd", "l\ufffd"} <= {t.text for t in root.iter(f"{SPACE}text")}


def test_a_legend_leaves_the_drawing_nowhere():
    names = ["a name of some length"] * 7
    rows = legend_rows(names, 400)
    assert sum(len(row) for row in rows) == 7 and len(rows) > 1
    assert all(row[0] == 0 and row == sorted(row) and row[-1] < 400 for row in rows)


CELLS = {
    "=1+1": "'=1+1",
    "-2": "'-2",
    -2.5: "-2.5",
    float("nan"): "",
    None: "",
    'a "quoted", cell': 'a "quoted", cell',
    1 / 3: "0.333333",
}


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_of_the_csv(cell):
    header, row = csv.reader(io.StringIO(Table(("x", "y"), [["a", cell]]).csv()))
    assert header == ["x", "y"] and row == ["a", CELLS[cell]]
