"""Which class computes a feature: one of this repository by name, another package's by `my_package.module:MyBackbone`.

Imports the class of another package where params name it, since that declares the feature's fields; none of ours.
"""

import inspect
import json
from typing import Annotated, Any, get_args

from pydantic import Field, PlainValidator, SerializeAsAny, TypeAdapter

from pipeline import plugins, sources

from .base import ParamsError
from .derived import ClipCamFeature, DerivedFeature, MapsFeature
from .features import BaseFeature, PixelFeature, TextFeature
from .imported import ImportedFeature, NpyFeature
from .libraries import HfFeature, TimmFeature
from .networks import (
    ClipFeature,
    ClipTextFeature,
    DinoV3Feature,
    FlowFeature,
    I3DFeature,
    R3D18Feature,
    VJepa2Feature,
)

# The backbones of this repository, a line each. Where none of the models below is of one, its class has a `Config`.
BACKBONES = {
    "clip": "pipeline.backbones.towers:Clip",
    "clip_text": "pipeline.backbones.clip_text:ClipText",
    "dinov3": "pipeline.backbones.towers:DinoV3",
    "flow": "pipeline.backbones.flow:Flow",
    "hf": "pipeline.backbones.hf:Hf",
    "i3d": "pipeline.backbones.i3d:I3DFrames",
    "r3d18": "pipeline.backbones.r3d18:R3D18",
    "timm": "pipeline.backbones.timm_models:Timm",
    "vjepa2": "pipeline.backbones.towers:VJepa2",
}
# Entry points of this group name the backbones of installed packages.
GROUP = "permafrost.backbones"
_PROTOCOL = "docs/adding-a-backbone.md says what a backbone offers"
_MODELS = (
    DinoV3Feature
    | R3D18Feature
    | VJepa2Feature
    | ClipFeature
    | ClipTextFeature
    | FlowFeature
    | I3DFeature
    | NpyFeature
    | ImportedFeature
    | DerivedFeature
    | ClipCamFeature
    | MapsFeature
    | HfFeature
    | TimmFeature
)
_OWN = TypeAdapter(Annotated[_MODELS, Field(discriminator="backbone")])
_TAGS = {get_args(model.model_fields["backbone"].annotation)[0] for model in get_args(_MODELS)}


def backbone_class(name: str) -> Any:
    """The class behind a `backbone` of params. Raises ParamsError: it cannot be imported; with the remedy."""
    return _loaded(_place(name))


def foreign_code(feature: BaseFeature) -> dict[str, str] | None:
    """What identifies the code of another package's backbone; None for ours, whose version is EXTRACTOR_VERSION.

    Returns:
        class: `module:Class`, however params name it. source: a digest of what its module does, and the modules of its
        own top-level package that it imports, directly or not; comments and docstrings do nothing.

    Raises:
        ParamsError: the module has no Python source.
    """
    if feature.backbone in _TAGS or (place := _place(feature.backbone)).startswith("pipeline."):
        return None
    module = place.partition(":")[0]
    try:
        code = sources.imported(module, within=[module.partition(".")[0]])
        return {"class": place, "source": sources.digest(*code)}
    except (ModuleNotFoundError, SyntaxError) as error:
        raise ParamsError(
            f"backbone {place}: its source cannot be read ({error}), and the feature's key is made from it; keep it in "
            "Python files, in a package with an __init__.py"
        ) from None


def _place(name: str) -> str:
    try:
        return plugins.named(name, BACKBONES, GROUP)
    except plugins.PluginError as error:
        raise ParamsError(f"backbone {error}") from None


def _loaded(place: str) -> Any:
    try:
        return plugins.load(place)
    except plugins.PluginError as error:
        raise ParamsError(f"backbone {error}") from None


# --- features of other packages ---------------------------------------------------------------------------------------


def _feature(value: Any) -> BaseFeature:
    """The model of a feature: one of ours by its `backbone`, or the `Config` of the class that this names."""
    if isinstance(value, BaseFeature):
        return value
    # As JSON, so that lists become tuples, as in the whole document: here they are Python's already.
    document, name = json.dumps(value), value.get("backbone") if isinstance(value, dict) else None
    if not isinstance(name, str) or name in _TAGS or not _named(name):
        return _OWN.validate_json(document)
    place = _place(name)
    found = _loaded(place)
    model = getattr(found, "Config", None)
    if not (isinstance(model, type) and issubclass(model, PixelFeature | TextFeature)):
        raise ValueError(
            f"backbone {place} has no Config: give the class one, a subclass of pipeline.config's BackboneFeature, "
            "PixelFeature, RowsFeature or TextFeature that declares its options"
        )
    feature = model.model_validate_json(document)
    if missing := [method for method in _methods(feature) if not _has(found, method)]:
        raise ValueError(f"backbone {place} lacks {', '.join(missing)}; {_PROTOCOL}")
    try:
        inspect.signature(found).bind(feature, "cpu")
    except TypeError as error:
        raise ValueError(f"backbone {place} cannot be made from (feature, device): {error}; {_PROTOCOL}") from None
    return feature


def _named(name: str) -> bool:
    """Whether a name leads to a class; if not, pydantic's list of ours is the answer."""
    try:
        return bool(plugins.named(name, BACKBONES, GROUP))
    except plugins.PluginError:
        return False


def _methods(feature: BaseFeature) -> tuple[str, ...]:
    if isinstance(feature, TextFeature):
        return ("__call__",)
    return ("preprocessor", "rows") if feature.ragged else ("preprocessor", "token_times", "__call__")


def _has(found: Any, method: str) -> bool:
    """Whether a class defines a method; `type` itself lends every class a __call__."""
    return isinstance(found, type) and any(method in vars(base) for base in found.__mro__)


AnyFeature = Annotated[SerializeAsAny[_MODELS], PlainValidator(_feature)]
