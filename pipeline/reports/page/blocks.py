"""What a page is built of: sections of plots, pictures, tables, notes. Knows no result and no file but pictures."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import plotly.graph_objects as go
from PIL import Image
from plotly.io.json import to_json_plotly

WIDEST = 1500  # pixels of a picture
QUALITY = 80
# A number with its deviation, interval or unit, or a dash for none.
NUMBER = re.compile(r"[-−–]$|[-−]?[\d,]+(\.\d+)?(e[-+]\d+)?( ± [\d.e-]+)?( (%|s|min|h|kB|MB|GB))?$")


class Cell(NamedTuple):
    """Of a table: what it says, whether it is the best of its column, how it is meant (good, bad, faint), and more.

    `title` appears under the pointer, `note` below the text.
    """

    text: str
    best: bool = False
    tone: str = ""
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first cell of a row names it. `folded`: behind this line, to be opened."""

    kind: ClassVar = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str
    wide: bool = True
    folded: str = ""

    @property
    def body(self) -> list[list[Cell]]:
        """Every cell as one."""
        return [[of if isinstance(of, Cell) else Cell(of) for of in row] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """Whether a column holds numbers, which are set flush right."""
        return [all(NUMBER.match(row[i].text) for row in self.body) for i in range(len(self.columns))]


@dataclass(frozen=True)
class Plot:
    """A plotly figure as JSON, without a template: the page has two, one for light and one for dark."""

    kind: ClassVar = "plot"
    id: str
    spec: str
    caption: str
    height: int
    wide: bool = False
    widest: int = 0  # pixels; as wide as there is room if 0


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
    wide: bool = True


@dataclass(frozen=True)
class Picture:
    """A still, inside the page."""

    kind: ClassVar = "picture"
    source: str
    width: int
    height: int
    alt: str
    caption: str
    wide: bool = True


@dataclass(frozen=True)
class Note:
    """A line of text, and the command that it speaks of."""

    kind: ClassVar = "note"
    text: str
    command: str = ""
    tone: str = ""
    wide: bool = True


@dataclass(frozen=True)
class Tiles:
    """Headline figures: (name, value, what is said below)."""

    kind: ClassVar = "tiles"
    tiles: Sequence[tuple[str, str, str]]
    wide: bool = True


@dataclass(frozen=True)
class Listing:
    """Text as it is, to be opened: params as YAML."""

    kind: ClassVar = "listing"
    folded: str
    text: str
    wide: bool = True


@dataclass(frozen=True)
class Section:
    """A heading with what is below it; `contents` is what the list of contents calls it."""

    id: str
    title: str
    blocks: Sequence[Any] = ()
    lead: str = ""
    parts: Sequence["Section"] = field(default_factory=tuple)
    contents: str = ""


def plot(id: str, figure: go.Figure, caption: str, height: int = 360, wide: bool = False, widest: int = 0) -> Plot:
    """A figure for the page: equal figures give equal text, and nothing in it can end the script that holds it."""
    document = figure.to_dict()
    document["layout"].pop("template", None)
    return Plot(slug(id), to_json_plotly(document), caption, height, wide, widest)


def picture(path: Path, alt: str, caption: str) -> Picture:
    """A picture file, at most 1500 pixels wide, as WebP. Equal pixels give equal text."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=6)
    source = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(source, image.width, image.height, alt, caption)


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
