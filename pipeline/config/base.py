"""What every model of params.yaml shares. Knows no section of it."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class ParamsError(ValueError):
    """A params document that cannot be used; the message names the key and the remedy."""


class Strict(BaseModel):
    """Refuses unknown keys and silent casts; immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Vocabulary(Strict):
    """Texts, embedded: a data set of texts and the feature that embeds them."""

    dataset: Name
    feature: Name


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal content, equal text, whatever the order in the YAML."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
