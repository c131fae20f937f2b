"""params.yaml as validated models, and the content keys that follow from it. Knows no torch, no store and no head."""

from .backbones import AnyFeature, backbone_class, foreign_code
from .base import ParamsError, Vocabulary, canonical_json, flat
from .datasets import Dataset, ToyAssembly, ToySSv2, Toyworld
from .derived import ClipCamFeature, DerivedFeature, MapsFeature
from .documents import assigned, read_documents, read_laid, read_yaml
from .features import (
    BackboneFeature,
    BaseFeature,
    PixelFeature,
    Preprocess,
    RowsFeature,
    Sampling,
    TextFeature,
    TowerFeature,
    Weights,
)
from .heads import (
    LR_BATCH,
    Head,
    Input,
)
from .imported import Imported, ImportedFeature, NpyFeature
from .keys import (
    EXTRACTOR_VERSION,
    code_digest,
    content_key,
    evaluation_key,
    feature_dir,
    feature_key,
    file_digest,
    weights_digest,
    weights_digests,
)
from .layouts import LAYOUTS, Annotations, Layout, layout_of
from .libraries import HfFeature, LibraryFeature, TimmFeature
from .networks import (
    ClipFeature,
    ClipTextFeature,
    DinoV3Feature,
    FlowFeature,
    I3DFeature,
    I3DFlow,
    R3D18Feature,
    VJepa2Feature,
)
from .overrides import override
from .own import Columns, Lists, Shares
from .params import Compute, Params
from .places import VideoPlace
from .reading import load_params, parse_params, parse_written
from .studies import Ablation, Axis, Claim, Figure, Search

__all__ = [
    "EXTRACTOR_VERSION",
    "LAYOUTS",
    "LR_BATCH",
    "Ablation",
    "Annotations",
    "AnyFeature",
    "Axis",
    "BackboneFeature",
    "BaseFeature",
    "Claim",
    "ClipCamFeature",
    "ClipFeature",
    "ClipTextFeature",
    "Columns",
    "Compute",
    "Dataset",
    "DerivedFeature",
    "DinoV3Feature",
    "Figure",
    "FlowFeature",
    "Head",
    "HfFeature",
    "I3DFeature",
    "I3DFlow",
    "Imported",
    "ImportedFeature",
    "Input",
    "Layout",
    "LibraryFeature",
    "Lists",
    "MapsFeature",
    "NpyFeature",
    "Params",
    "ParamsError",
    "PixelFeature",
    "Preprocess",
    "R3D18Feature",
    "RowsFeature",
    "Sampling",
    "Search",
    "Shares",
    "TextFeature",
    "TimmFeature",
    "TowerFeature",
    "ToyAssembly",
    "ToySSv2",
    "Toyworld",
    "VJepa2Feature",
    "VideoPlace",
    "Vocabulary",
    "Weights",
    "assigned",
    "backbone_class",
    "canonical_json",
    "code_digest",
    "content_key",
    "evaluation_key",
    "feature_dir",
    "feature_key",
    "file_digest",
    "flat",
    "foreign_code",
    "layout_of",
    "load_params",
    "override",
    "parse_params",
    "parse_written",
    "read_documents",
    "read_laid",
    "read_yaml",
    "weights_digest",
    "weights_digests",
]
