"""A part of params with some of its values replaced, and what is wrong with values, in words. Knows no section."""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from .base import ParamsError, shown


def override(head: Any, changes: Mapping[str, Any]) -> Any:
    """A copy of a head's sub-tree with dotted keys replaced: {"model.fusion": "concat", "seed": 1}.

    Raises:
        ParamsError: a key that the head does not have, one that says which model of params it has, or a value of the
            wrong type.
    """
    document = head.model_dump(mode="json")
    for dotted, value in changes.items():
        if dotted in ("kind", "backbone") and value != document.get(dotted):
            raise ParamsError(
                f"{dotted}: is {document.get(dotted)!r} and decides which options there are, so it cannot be replaced "
                f"alone; declare what has another {dotted} under a name of its own"
            )
        *path, last = dotted.split(".")
        node = document
        for part in path:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            raise ParamsError(f"{dotted}: unknown key; remove it or correct its spelling")
        node[last] = value
    try:
        return type(head).model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise ParamsError("; ".join(sentence(item, whole="") for item in error.errors())) from None


def sentence(error: Any, whole: str = "(whole document)", origins: Mapping[str, str] = MappingProxyType({})) -> str:
    """What is wrong, behind its dotted key, and behind the file of a study; `whole` stands for no key."""
    place = [str(part) for part in error["loc"]]
    if error["type"].startswith("union_tag"):  # which kind of feature it is
        place.append(error["ctx"]["discriminator"].strip("'"))
    key = ".".join(map(shown, place)) or whole
    if error["type"] == "extra_forbidden":
        what = "unknown key; remove it or correct its spelling"
    elif error["type"] in ("missing", "union_tag_not_found"):
        what = "required, but absent"
    elif error["type"] == "value_error":
        what = str(error["ctx"]["error"])
    elif error["type"] == "union_tag_invalid":
        others = ", or a class of yours, my_package.module:MyClass" if place[-1] == "backbone" else ""
        what = f"expected one of {error['ctx']['expected_tags']}{others}, got {shown(repr(error['ctx']['tag']))}"
    else:
        what = f"{error['msg']}, got {shown(repr(error['input']))}"
    # What a model of the whole refuses begins with the key that it is about.
    subject = re.match(r"\w+\.[\w-]+", what if not error["loc"] else ".".join(map(str, error["loc"][:2])))
    if subject and (file := origins.get(subject[0])):
        key = f"{file}: {key}" if error["loc"] else file
    return f"{key}: {what}" if key else what
