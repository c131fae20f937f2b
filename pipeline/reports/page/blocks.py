"""What a page is built of: sections of pictures, tables, notes. Knows no result and no file but pictures."""

import base64
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from PIL import Image

# Of photographs: pixels, and of JPEG's scale. A drawing stays as it is: letters blur, and it becomes no smaller.
WIDEST, QUALITY = 1500, 80
DRAWING = 0.25  # bytes a pixel of a PNG, of which photographs have more
# A number with its deviation, interval or unit, or a dash for none.
NUMBER = re.compile(r"[-−–]$|[-−]?[\d,]+(\.\d+)?(e[-+]\d+)?( ± [\d.e-]+)?( (%|s|min|h|kB|MB|GB))?$")


class Bar(NamedTuple):
    """A value drawn in its cell, from 0 to 100 % of the column's width: a bar from `start` to it, a dot where there is
    none, and a line over its interval."""

    at: float
    start: float | None = 0.0
    low: float | None = None
    high: float | None = None


class Cell(NamedTuple):
    """Of a table: what it says, whether it is the best of its column, how it is meant (good, bad, faint), and more.

    `title` appears under the pointer, `note` below the text; what a `bar` shows stands in another cell as a number.
    """

    text: str = ""
    best: bool = False
    tone: str = ""
    title: str = ""
    note: str = ""
    bar: Bar | None = None


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first cell of a row names it. `folded`: behind this line, to be opened."""

    kind: ClassVar = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str
    folded: str = ""

    @cached_property
    def body(self) -> list[list[Cell]]:
        """Every cell as one."""
        return [[of if isinstance(of, Cell) else Cell(of) for of in row] for row in self.rows]

    @cached_property
    def numeric(self) -> list[bool]:
        """Whether a column holds numbers, which are set flush right."""
        return [all(NUMBER.match(row[i].text) for row in self.body) for i in range(len(self.columns))]


@dataclass(frozen=True)
class Space:
    """Points to look around in: switches of projection, colour and class, and the picture of the point under the
    pointer. `spec` is JSON for page.js."""

    kind: ClassVar = "space"
    id: str
    spec: str
    projections: Sequence[str]
    colourings: Sequence[str]
    classes: Sequence[str]
    caption: str


@dataclass(frozen=True)
class Picture:
    """A file's picture, inside the page; `natural` is the width, in CSS pixels, that its letters are meant for."""

    kind: ClassVar = "picture"
    name: str
    source: str
    width: int
    height: int
    natural: int
    alt: str
    caption: str


@dataclass(frozen=True)
class Note:
    """A line of text, and the file whose making it speaks of."""

    kind: ClassVar = "note"
    text: str
    target: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Tiles:
    """Headline figures: (name, value, what is said below)."""

    kind: ClassVar = "tiles"
    tiles: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Listing:
    """Text as it is, to be opened: params as YAML."""

    kind: ClassVar = "listing"
    folded: str
    text: str


@dataclass(frozen=True)
class Section:
    """A heading with what is below it; `contents` is what the list of contents calls it."""

    id: str
    title: str
    blocks: Sequence[Any] = ()
    lead: str = ""
    parts: Sequence["Section"] = field(default_factory=tuple)
    contents: str = ""


def embedded(document: Any) -> str:
    """JSON for a script of the page: equal documents give equal text, and nothing in it can end the script."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def picture(path: Path, alt: str, caption: str) -> Picture:
    """A picture file as WebP: of drawings all pixels, of photographs 1500 across at most. Equal pixels, equal text."""
    with Image.open(path) as opened:
        image, dots = opened.convert("RGB"), opened.info.get("dpi", (96,))[0]
    natural, buffer = round(image.width * 96 / dots), io.BytesIO()
    if path.stat().st_size < DRAWING * image.width * image.height:
        image.save(buffer, "WEBP", lossless=True)
    else:
        if image.width > WIDEST:
            image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
        image.save(buffer, "WEBP", quality=QUALITY, method=6)
    source = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(path.stem, source, image.width, image.height, natural, alt, caption)


def slug(text: str) -> str:
    """What an id may be.

    >>> slug("results/a b!")
    'results-a-b-'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)


def command(snakemake: str, target: str) -> str:
    """How a file is made: the target first, since options after it may take several values.

    >>> command("snakemake --cores all", "results/claims.json")
    'snakemake results/claims.json --cores all'
    """
    program, *options = snakemake.split()
    return " ".join([program, target, *options])
