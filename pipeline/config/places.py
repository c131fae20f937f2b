"""Where the video of a sample lies, told from its id by a pattern. Knows no layout, and looks at no file."""

import re
from string import Formatter

from pydantic import model_validator

from .base import Strict


class VideoPlace(Strict):
    """The videos of the samples whose ids are like `ids`: below the videos' folder at one of `paths`.

    A field takes as few characters as it can, at least one, and where it is repeated the same ones again. `paths` are
    made of the fields of `ids` and lack the extension; the first that is there counts.

    >>> place = VideoPlace(ids="{person}_{camera}_{name}", paths=("{person}/{camera}/{name}",))
    >>> place.of("P03_cam01_P03_coffee")
    ('P03/cam01/P03_coffee',)
    """

    ids: str
    paths: tuple[str, ...]

    @model_validator(mode="after")
    def _fits(self) -> "VideoPlace":
        known = self._expression().groupindex.keys()
        if not self.paths:
            raise ValueError(f"{self.ids!r} has no path; name at least one")
        for path in self.paths:
            if unknown := {field for _, field in _pieces(path) if field} - known:
                raise ValueError(f"{path!r} has the fields {sorted(unknown)}, but {self.ids!r} has {sorted(known)}")
            if any(part in ("", ".", "..") for part in path.split("/")):
                raise ValueError(f"{path!r} is no path below the videos' folder; write it as folder/name")
        return self

    def of(self, sample: str) -> tuple[str, ...]:
        """The paths of a sample's video; none where its id is not like `ids`."""
        found = self._expression().fullmatch(sample)
        return tuple(path.format(**found.groupdict()) for path in self.paths) if found else ()

    def _expression(self) -> re.Pattern[str]:
        found, known = "", set()
        for text, field in _pieces(self.ids):
            found += re.escape(text)
            if field is not None:
                found += f"(?P={field})" if field in known else f"(?P<{field}>.+?)"
                known.add(field)
        return re.compile(found)


def _pieces(template: str) -> list[tuple[str, str | None]]:
    """Each piece of text with the field behind it, or None."""
    pieces = []
    for text, field, form, conversion in Formatter().parse(template):
        if field is not None and (not field.isidentifier() or form or conversion):
            raise ValueError(f"{template!r} has the field {{{field}}}; a field is a plain name such as {{camera}}")
        pieces.append((text, field))
    return pieces
