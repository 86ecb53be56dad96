import base64
import csv as csv_module
import hashlib
import io
import itertools
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console

from recipe.compare.report.csv_tables import render_csv
from recipe.compare.report.document import Document, Image, RowStyle, Section, Table
from recipe.compare.report.files import write_document
from recipe.compare.report.html import render_html
from recipe.compare.report.markdown import render_markdown
from recipe.compare.report.terminal import print_document
from recipe.compare.sentences import format_code
from recipe.formatting import escape_unprintable

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
)

HOSTILE = (
    "<script>alert(1)</script>", "a|b", "\\|", "`a`", "**bold**", "_em_", "max_norm", "a\nb",
    "\x1b[2J", "[x](javascript:alert(1))", "![x](http://a/b.png)", "&lt;", "&amp;amp;", "~~gone~~",
    "$x$", "---", "# no title", "1. no item", "- no item", "> no quote", "\\", "]]>", "<!--",
    "\u202e", "\udc80", "=1+1", "http://example.org", "[red]bold[/red]", ":smile:", "'\"", "```",
    "\x00", "{{ 7 * 7 }}",
)  # fmt: skip

names = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(alphabet=st.sampled_from("ab1 |\\`*_~#<>&$[]()!-+=.:'\"\n\x1b\u202e\udc80ü\u4e2d")),
    st.text(),
)
quick = settings(max_examples=60)


def of(*content: str | Table | Image, title: str = "Tricks") -> Document:
    return Document("Report", [Section(title, content)])


@st.composite
def tables(draw: st.DrawFn) -> Table:
    width = draw(st.integers(1, 4))
    rows = st.lists(st.lists(names, min_size=width, max_size=width), max_size=4)
    columns = draw(st.lists(names, min_size=width, max_size=width))
    return Table(columns, draw(rows), num_left_aligned=draw(st.integers(0, width)))


def rendered(token: Token) -> str:
    """The words of a piece of Markdown as a reader sees them; an element would show as <name>."""
    words = ""
    for child in token.children or []:
        known = child.type in ("text", "text_special")
        words += child.content if known else f"<{child.type}>{child.content}"
    return words


def parsed(text: str) -> list[Token]:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)


def cells(text: str) -> Iterator[str]:
    """The words of every cell of a Markdown text."""
    tokens = parsed(text)
    for before, token in itertools.pairwise(tokens):
        if before.type in ("th_open", "td_open"):
            yield rendered(token)


class Page(HTMLParser):
    """An HTML page's elements, attributes and words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.comments: list[str] = []
        self.words: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self._open.append(tag)
            self.words.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self._open[-1:]:
            self.words[tag][-1] += data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]


def shown(document: Document, width: int | None = None) -> str:
    file = io.StringIO()
    terminal = width is not None
    print_document(
        document, Console(file=file, width=width or 100, force_terminal=terminal, no_color=True)
    )
    return file.getvalue()


@quick
@given(table=tables())
@example(table=Table(HOSTILE, [HOSTILE]))
def test_a_markdown_table_can_be_parsed_whatever_the_cells_contain(table: Table) -> None:
    given_cells = [cell for row in (table.columns, *table.rows) for cell in row]
    assert list(cells(render_markdown(of(table)))) == [
        escape_unprintable(cell).strip() for cell in given_cells
    ]


@quick
@given(words=names, name=names)
@example(words="1. first", name="`")
def test_a_markdown_paragraph_contains_its_text_and_only_its_own_code(
    words: str, name: str
) -> None:
    # without marks of its own, what is between the words and the name can't be mistaken for any
    words = words.replace("`", "").replace("**", "")
    tokens = parsed(render_markdown(of(f"{words} {format_code(name)} end", title=words)))
    assert [token.type for token in tokens if token.type.endswith("_open")] == [
        "heading_open", "heading_open", "paragraph_open",
    ]  # fmt: skip
    _, title, paragraph = (token for token in tokens if token.type == "inline")
    assert rendered(title) == escape_unprintable(words).strip()
    inside = format_code(name).strip("`")
    if inside.strip() and inside[0] == inside[-1] == " ":
        inside = inside[1:-1]  # as CommonMark has it
    assert (
        rendered(paragraph)
        == f"{escape_unprintable(words).lstrip()} <code_inline>{inside} end".lstrip()
    )


def test_code_and_strong_text_are_rendered_in_every_format(tmp_path: Path) -> None:
    said = of("**`clip=norm` helps**: 2*3, a**b, x_y, `max_norm`")
    assert render_markdown(said).splitlines()[-1] == (
        "**`clip=norm` helps**: 2\\*3, a\\*\\*b, x_y, `max_norm`"
    )
    assert (
        "<p><strong><code>clip=norm</code> helps</strong>: 2*3, a**b, x_y, <code>max_norm</code>"
        "</p>" in render_html(said, tmp_path)
    )
    assert shown(said).splitlines()[-1] == "clip=norm helps: 2*3, a**b, x_y, max_norm"


def test_unclosed_markup_is_plain_text(tmp_path: Path) -> None:
    said = of("one ` and two ** are left open")
    assert "<p>one ` and two ** are left open</p>" in render_html(said, tmp_path)
    assert shown(said).splitlines()[-1] == "one ` and two ** are left open"


@quick
@given(table=tables(), words=names)
@example(table=Table(HOSTILE, [HOSTILE]), words="<script>alert(1)</script>")
def test_a_page_contains_only_expected_elements_and_all_text(
    tmp_path_factory: pytest.TempPathFactory, table: Table, words: str
) -> None:
    words = words.replace("`", "").replace("**", "")
    page = Page(
        render_html(Document(words, [Section(words, [words, table])]), tmp_path_factory.mktemp("r"))
    )
    assert page.tags == [
        "html", "head", "meta", "meta", "meta", "meta", "title", "style", "body", "main", "h1",
        "section", "h2", *["p"] * bool(words.strip(" ")), "div", "table", "thead", "tr",
        *["th"] * len(table.columns), *["tbody"] * bool(table.rows),
        *["tr", *["td"] * len(table.columns)] * len(table.rows),
    ]  # fmt: skip
    assert page.comments == []
    text = escape_unprintable(words)
    assert [page.words[tag] for tag in ("title", "h1", "h2")] == [[text]] * 3
    assert page.words.get("p", []) == list(filter(None, [text.strip()]))
    assert page.words["th"] == [escape_unprintable(cell).strip() for cell in table.columns]
    assert page.words.get("td", []) == [
        escape_unprintable(cell).strip() for row in table.rows for cell in row
    ]
    assert dict(page.elements)["div"]["aria-label"] == text


def test_a_page_is_self_contained_and_forbids_scripts(tmp_path: Path) -> None:
    (tmp_path / "forest.png").write_bytes(PIXEL)
    table = Table(["trick"], [["clip"]], csv_name="tricks")
    sections = [Section(f"s{i}", [table, Image("forest.png", "a forest")]) for i in range(3)]
    text = render_html(Document("Report", sections), tmp_path)
    page = Page(text)
    goes_to = [
        value
        for _, attributes in page.elements
        for key, value in attributes.items()
        if key in ("src", "href", "srcset", "action", "data", "poster", "background")
    ]
    assert len(goes_to) == 9  # three pictures, three CSV files, three places in the page
    assert all(
        value and re.match(r"data:(image/png|text/csv);base64,|#s\d$", value) for value in goes_to
    )
    assert "url(" not in text and "@import" not in text
    [policy] = [
        attributes["content"]
        for tag, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    [style] = page.words["style"]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; img-src data:; style-src 'sha256-{digest}';")
    assert "script" not in policy and "unsafe" not in policy


def test_the_image_and_csv_in_a_page_equal_the_files(tmp_path: Path) -> None:
    (tmp_path / "forest.png").write_bytes(PIXEL)
    table = Table(["trick"], [["clip"]], csv_name="tricks")
    write_document(of(table, Image("forest.png", "five tricks & <their> effects")), tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    elements = dict(page.elements)
    sources = {"forest.png": elements["img"]["src"], "tricks.csv": elements["a"]["href"]}
    for file, link in sources.items():
        assert link is not None
        assert base64.b64decode(link.partition("base64,")[2]) == (tmp_path / file).read_bytes()
    assert elements["img"]["alt"] == "five tricks & <their> effects"
    assert elements["a"]["download"] == "tricks.csv"
    text = (tmp_path / "report.md").read_text()
    [image] = [t for token in parsed(text) for t in token.children or [] if t.type == "image"]
    assert image.attrs["src"] == "forest.png"
    assert rendered(image) == "five tricks & <their> effects"


def test_a_report_is_written_as_html_markdown_and_its_named_tables(tmp_path: Path) -> None:
    tables = [Table(["a"], [["1"]], csv_name="first"), Table(["b"], [["2"]])]
    write_document(of(*tables), tmp_path / "new")
    assert {file.name for file in (tmp_path / "new").iterdir()} == {
        "report.html", "report.md", "first.csv",
    }  # fmt: skip


@quick
@given(table=tables())
@example(table=Table(HOSTILE, [HOSTILE]))
def test_csv_table_round_trips(table: Table) -> None:
    rows = list(csv_module.reader(io.StringIO(render_csv(table))))
    for cell, got in zip(
        [cell for row in (table.columns, *table.rows) for cell in row],
        [cell for row in rows for cell in row],
        strict=True,
    ):
        assert got in (escape_unprintable(cell), f"'{escape_unprintable(cell)}")
        assert not got.lstrip().startswith(("=", "@"))
    assert len(rows) == 1 + len(table.rows)


def test_csv_has_raw_values_if_there_are_any() -> None:
    table = Table(
        ["variant", "accuracy"],
        [["clip=norm", "97.1 %"], ["-", "?"]],
        csv_rows=[
            {"variant": "clip=norm", "accuracy": 0.97123456789},
            {"variant": "none", "accuracy": None, "note": -2},
        ],
    )
    assert render_csv(table) == "variant,accuracy,note\nclip=norm,0.97123456789,\nnone,,-2\n"


FORMULAS = ["=1+1", " =1+1", "@SUM(A1)", "-2+3+cmd|' /C calc'!A0", "+HYPERLINK(1)"]


@pytest.mark.parametrize("name", FORMULAS)
def test_names_are_never_formulas_in_the_csv(name: str) -> None:
    table = Table(["name"], [[name], ["+0.4 (-0.1 to +0.9)"], ["-"]])
    rows = list(csv_module.reader(io.StringIO(render_csv(table))))
    assert rows[1:] == [[f"'{name}"], ["+0.4 (-0.1 to +0.9)"], ["-"]]


@quick
@given(table=tables(), words=names)
@example(table=Table(HOSTILE, [HOSTILE]), words="\x1b]0;title\x07")
def test_control_characters_never_reach_the_terminal(table: Table, words: str) -> None:
    lines = shown(
        Document(words, [Section(words, [words, format_code(words), table])])
    ).splitlines()
    assert all(line.isprintable() for line in lines)


def test_a_terminal_shows_titles_paragraphs_and_tables_in_order_without_images() -> None:
    table = Table(["trick", "change"], [["clip=norm", "+0.4"], ["[red]x", "-0.25"]])
    said = of("Compared over 8 seeds.", table, Image("forest.png", "a forest"), "That was it.")
    assert [line.rstrip() for line in shown(said).splitlines()] == [
        "Report",
        "",
        "Tricks",
        "Compared over 8 seeds.",
        "",
        "trick      change",
        "clip=norm    +0.4",
        "[red]x      -0.25",
        "",
        "That was it.",
    ]


def test_a_long_table_is_truncated_in_the_terminal_with_a_hint_to_the_csv() -> None:
    rows = [[f"run {i}"] for i in range(43)]
    lines = shown(of(Table(["run"], rows, csv_name="runs"))).splitlines()
    assert [line.strip() for line in lines[-2:]] == ["run 39", "and 3 more rows in runs.csv"]
    assert shown(of(Table(["run"], rows[:41]))).splitlines()[-1] == "and 1 more row"
    assert shown(of(Table(["run"], rows[:40]))).splitlines()[-1].strip() == "run 39"
    assert len(list(cells(render_markdown(of(Table(["run"], rows)))))) == 44


def test_a_long_name_is_wrapped_in_a_narrow_terminal_and_on_one_line_in_a_file() -> None:
    name = "model.widths=" + "x" * 70
    table = of(Table(["variant", "accuracy"], [[name, "97.1 %"]]))
    narrow = re.sub(r"\x1b\[\d+m", "", shown(table, width=40))
    assert re.sub(r"\s|97\.1 %", "", narrow.split("accuracy")[1]) == name
    assert "97.1 %" in narrow
    assert f"{'x' * 70}    97.1 %" in shown(table)


def test_row_style_appears_in_terminal_and_html(tmp_path: Path) -> None:
    styles: list[RowStyle | None] = ["green", None]
    table = of(Table(["trick"], [["clip"], ["freeze"]], styles=styles))
    file = io.StringIO()
    print_document(table, Console(file=file, force_terminal=True, color_system="standard"))
    assert "\x1b[32mclip" in file.getvalue() and "freeze" in file.getvalue()
    rows = [
        attributes for tag, attributes in Page(render_html(table, tmp_path)).elements if tag == "tr"
    ]
    assert rows == [{}, {"class": "green"}, {}]


def test_numbers_are_right_aligned_in_markdown_and_page(tmp_path: Path) -> None:
    table = of(Table(["group", "trick", "n"], [["a", "b", "1"]], num_left_aligned=2))
    assert "| --- | --- | ---: |" in render_markdown(table)
    classes = [
        a.get("class") for tag, a in Page(render_html(table, tmp_path)).elements if tag == "td"
    ]
    assert classes == [None, None, "right"]


def test_a_table_with_a_missing_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="a cell for each"):
        Table(["a", "b"], [["1"]])
    with pytest.raises(ValueError, match="1 rows have 2 styles"):
        Table(["a"], [["1"]], styles=["red", None])
