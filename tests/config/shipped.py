"""params.yaml as a document, read when it is first asked for."""

from functools import cache
from typing import Any

from pipeline.config import load_params
from tests.conftest import ROOT


@cache
def shipped() -> dict[str, Any]:
    """All of it; whoever changes it takes a copy."""
    return load_params(ROOT / "params.yaml").model_dump(mode="json")
