"""How params are read: from files, from what is laid over them, from the command line. Knows no section."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .base import ParamsError
from .documents import Written, read_documents, read_json
from .overrides import sentence
from .params import Params


def parse_params(
    document: Mapping[str, Any], origin: str = "params.yaml", origins: Mapping[str, str] | None = None
) -> Params:
    """Validates a params document.

    Args:
        document: what the YAML or JSON file holds.
        origin: named in errors.
        origins: "ablations.NAME" or "claims.NAME" -> the file that it stands in, named in its errors.

    Raises:
        ParamsError: one line a mistake, each with the dotted key, what was found and what is wanted.
    """
    try:
        # JSON mode, so that YAML's lists become the tuples that strict mode would refuse as Python objects.
        return Params.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise ParamsError(
            f"{origin} cannot be used:\n"
            + "\n".join(f"  {sentence(item, origins=origins or {})}" for item in error.errors())
        ) from None
    except TypeError as error:
        raise ParamsError(f"{origin} holds something that JSON cannot: {error}") from None


def parse_written(written: Written) -> Params:
    """Validates what `read_documents` gives. Raises as `parse_params`."""
    return parse_params(written.document, written.origin, written.origins)


def load_params(source: str | Path, **needed: str | Sequence[str]) -> Params:
    """Reads params from a YAML file, or from a literal JSON document (a string that starts with a brace).

    Args:
        source: the file or the document.
        needed: names that they must declare, by section: `datasets="toy-ssv2", features=["r3d18_clips"]`.

    Raises:
        ParamsError: the file is absent, is not YAML, does not fit the models, or lacks a name.
    """
    text, origin = str(source), str(source)
    if text.lstrip().startswith("{"):
        origin = "the params document on the command line"
        params = parse_params(read_json(text, origin), origin)
    else:
        params = parse_written(read_documents([source], option="--params"))
    for section, names in needed.items():
        known = dict(getattr(params, section).items())
        for name in [names] if isinstance(names, str) else names:
            if name not in known:
                raise ParamsError(
                    f"{origin} declares no {section}.{name}: known are {', '.join(sorted(known)) or 'none'}; "
                    "correct the name, or declare it"
                )
    return params
