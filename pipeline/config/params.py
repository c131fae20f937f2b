"""The whole of params.yaml: its sections, how they refer to each other, how it is read. Knows no torch and no store.

Every choice a person may make is a field here, and nowhere else. Unknown keys and wrong types are refused with the
key's dotted name before any job starts.
"""

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from pipeline.tasks import TASKS

from .backbones import AnyFeature
from .base import Name, ParamsError, Positive, PositiveFloat, Strict, Vocabulary, canonical_json, shown
from .contents import Contents, Given, Maps, Rows, Texts, readable, refuse_unlike, told, told_types
from .datasets import Dataset, Toyworld
from .derived import ClipCamFeature, DerivedFeature, MapsFeature
from .features import PixelFeature, TextFeature
from .heads import KINDS, AnyHead, Input, head_model
from .names import refuse_clashing_files, refuse_twins
from .networks import ClipFeature, FlowFeature, I3DFeature
from .overrides import override
from .studies import Ablation, Claim, Search
from .variants import parted, vary

# What may be learned of whole samples: columns of a manifest.
TARGETS = {"label": "one label each", "labels": "several labels each", "target": "numbers"}
NOUNS = {"video": "videos", "image": "pictures", "text": "texts"}
Threads = Annotated[int, Field(gt=0, le=4096)]


class Compute(Strict):
    """The machine's share. Threads are fixed, not taken from the scheduler, because they decide the order of sums.

    `threads` serves training and evaluation; `extract_threads` each extraction job, of which several run side by side.
    A training has `devices` on each of `nodes`; `batch_size` of a head is that of all of them together.
    `readahead_gb`: of batches that the readers of a training or an evaluation have ready in shared memory: where
    `decode_workers` would have more, fewer of them read.
    `max_memory_gb`: the most of a GPU's memory that one job takes; what does not fit is divided or refused, as it is on
    a GPU that has no more.
    `mixed`: what becomes of a feature that several devices, or versions of libraries, have computed, which are no part
    of its key. Its results say so, or it is refused.
    A job has `job_minutes` of shards or of an ablation's runs, by the declared cost (`config/costs.py`) or
    `seconds_a_sample` of a feature, or of a head and epoch; but where that gives fewer jobs than `jobs`, which is how
    many may run at once, there are so many.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads = 2
    extract_threads: Threads = 1
    decode_workers: Annotated[int, Field(ge=0, le=4096)] = 1
    cache_memory_gb: Annotated[float, Field(ge=0)] = 2.0
    readahead_gb: Annotated[float, Field(gt=0)] = 2.0
    devices: Positive = 1
    nodes: Positive = 1
    strategy: Literal["auto", "ddp"] = "auto"
    max_memory_gb: Annotated[float, Field(gt=0)] | None = None
    mixed: Literal["refuse", "report"] = "report"
    job_minutes: Annotated[PositiveFloat, Field(le=1e6)] = 10.0
    jobs: Positive = 8
    seconds_a_sample: dict[Name, Annotated[PositiveFloat, Field(le=1e6)]] = Field(default_factory=dict)

    # What cuts shards and runs into jobs: no job's matter.
    CUTS: ClassVar = frozenset({"job_minutes", "jobs", "seconds_a_sample"})


class Params(Strict):
    """The whole of params.yaml. A part of it (one data set, one feature, one head) is a params document too."""

    compute: Compute = Compute()
    toyworld: Toyworld | None = None
    datasets: dict[Name, Dataset] = Field(default_factory=dict)
    features: dict[Name, AnyFeature] = Field(default_factory=dict)
    # Each group is extracted in one pass over the videos: one decode for all of its features.
    fused: tuple[tuple[Name, ...], ...] = ()
    heads: dict[Name, AnyHead] = Field(default_factory=dict)
    ablations: dict[Name, Ablation] = Field(default_factory=dict)
    claims: dict[Name, Claim] = Field(default_factory=dict)
    searches: dict[Name, Search] = Field(default_factory=dict)
    _contents: dict[str, tuple[AnyFeature, Contents | None]] = PrivateAttr(default_factory=dict)

    @field_validator("heads", mode="before")
    @classmethod
    def _kinds(cls, heads: Any, info: ValidationInfo) -> Any:
        """Files of before heads had names call each after its kind. What a probe learns its data set decides."""
        if not isinstance(heads, Mapping):
            return heads
        old = [name for name, of in heads.items() if name in KINDS and isinstance(of, Mapping) and "kind" not in of]
        for name in old:
            said = f"heads.{name} has no kind and is taken for {name}; write kind: {name} below it"
            warnings.warn_explicit(said, FutureWarning, "params", 0)
        heads = {name: {"kind": name, **of} if name in old else of for name, of in heads.items()}
        return {name: _with_targets(of, info.data.get("datasets", {})) for name, of in heads.items()}

    @model_validator(mode="after")
    def _names_resolve(self) -> "Params":
        refuse_twins("heads", self.heads)
        refuse_twins("datasets", self.datasets)
        refuse_twins("features", self.features)
        for name, feature in self.features.items():
            if "-" in name:
                raise ValueError(
                    f"features.{name}: in a folder's name a hyphen stands before the key; call it "
                    f"{name.replace('-', '_')}"
                )
            if getattr(feature, "decoder", "") == "torchcodec_cuda":
                self._gpu_decodes(name)
            for other in feature.reads:
                _must_exist(f"features.{name}", other, self.features, "features")
            self._reading_fits(name, feature)
        for name, feature in self.features.items():
            self._compared_fits(name, feature.compares)
        for name in self.compute.seconds_a_sample:
            _must_exist("compute.seconds_a_sample", name, {**self.features, **self.heads}, "features and heads")
        for number, group in enumerate(self.fused):
            self._fusing_fits(f"fused.{number}", group)
        for name, head in self.heads.items():
            _must_exist(f"heads.{name}.dataset", head.dataset, self.datasets, "datasets")
            self._inputs_exist(f"heads.{name}.", head)
        for name, ablation in self.ablations.items():
            _must_exist(f"ablations.{name}.head", ablation.head, self.heads, "heads")
            for variant, overrides in ablation.rows.items():
                key = f"ablations.{name}.{'variants' if variant in ablation.variants else 'grid'}.{variant}"
                try:
                    self.changed(ablation.head, overrides)
                except ParamsError as error:
                    raise ValueError(f"{key}: {error}") from None
        self._files_differ()
        refuse_twins("searches", self.searches)
        for name, search in self.searches.items():
            self._searching_fits(f"searches.{name}", search)
        for name, claim in self.claims.items():
            self._claiming_fits(f"claims.{name}", claim)
        for name, dataset in self.datasets.items():
            if dataset.within is not None:
                _must_exist(f"datasets.{name}.within", dataset.within, self.datasets, "datasets")
            for feature in dataset.features:
                _must_exist(f"datasets.{name}.features", feature, self.features, "features")
                if dataset.kind == "text" and not isinstance(self.features[feature], TextFeature):
                    raise ValueError(f"datasets.{name} holds texts, but features.{feature} looks at pictures")
            if dataset.made_by == "toyworld":
                if dataset.rendering is None:
                    known = ", ".join(dict.fromkeys(of.layout for of in Toyworld.RENDERINGS.values()))
                    raise ValueError(f"datasets.{name}.made_by: toyworld renders {known}, got {dataset.layout}")
                section = Toyworld.RENDERINGS[dataset.rendering].section
                if self.toyworld is None or getattr(self.toyworld, section) is None:
                    missing = "toyworld" if self.toyworld is None else f"toyworld.{section}"
                    raise ValueError(f"datasets.{name}.made_by is toyworld, but the section {missing} is missing")
                if dataset.root != f"data/{name}":
                    raise ValueError(
                        f"datasets.{name}.root must be data/{name}, where toyworld renders, got {dataset.root}"
                    )
        return self

    def _files_differ(self) -> None:
        tables = {f"ablations.{name}": name for name, of in self.ablations.items()}
        files = {"results": {f"heads.{name}.result": head.result for name, head in self.heads.items()}}
        for key, name in tables.items():
            folder = TASKS[self.head(self.ablations[name].head).task].folder
            files.setdefault(folder, {})[key] = name
        for folder, named in files.items():
            refuse_clashing_files(folder, named)

    def changed(self, head: str, changes: Mapping[str, Any]) -> Any:
        """A head's sub-tree with dotted keys replaced, as `override`, which reads what these params declare.

        `features.<name>.<field>` of a declared feature makes a feature of its own, which these params then declare too,
        and the roles that read the one, or what is made from it, read the other.

        Raises:
            ParamsError: as `override`, and for a data set or feature that is not declared, does not fit or is not read.
        """
        own, varied = parted(changes, self.features)
        config = override(self.head(head), own)
        try:
            if varied:
                config = override(config, self._varied(config, varied))
            self._inputs_exist("", config)
        except ValueError as error:
            raise ParamsError(str(error)) from None
        return config

    def _varied(self, config: Any, varied: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """The overrides with which a head reads variants of features; declares these."""
        read = {config.key_of(role): of.feature for role, of in config.inputs.items()}
        for place, name in read.items():
            _must_exist(place, name, self.features, "features")
        known = set(self.features)
        variant = vary(self.features, varied, dict.fromkeys(read.values()), override)
        for name in self.features.keys() - known:
            self._reading_fits(name, self.features[name])
        return {place: variant[name] for place, name in read.items() if name in variant}

    def _inputs_exist(self, key: str, head: Any) -> None:
        given = {}
        for role, read in head.inputs.items():
            _must_exist(f"{key}dataset of {role}", read.dataset, self.datasets, "datasets")
            _must_exist(f"{key}{head.key_of(role)}", read.feature, self.features, "features")
            place = f"{key}{head.key_of(role)}"
            if role not in head.wanted:
                self._unmarked_fits(place, read, head)
            given[role] = self._given(place, role, read, head.wanted.get(role))
        dataset = self.datasets[head.dataset]
        self._labels_fit(f"{key}dataset", head.dataset, head)
        for role, read in head.evaluation_inputs.items() - head.inputs.items():
            place = f"{key}{role.rpartition('.')[0]}"
            _must_exist(place, read.dataset, self.datasets, "datasets")
            self._given(place, role, read, head.wanted.get(role.rpartition(".")[2]))
            self._labels_fit(place, read.dataset, head)
        try:
            head.fits({role: found for role, found in given.items() if found is not None}, dataset.class_lists)
        except ValueError as error:
            raise ValueError(f"{key}{str(error).removeprefix(key)}") from None
        head.refuse_misfits(key, self.datasets)

    def _labels_fit(self, key: str, name: str, head: Any) -> None:
        """Refuses a data set whose labels are not what a head learns, and is judged by."""
        dataset = self.datasets[name]
        if head.framewise is not None and head.framewise != dataset.laid.labelled:
            labels = ("samples", "frames") if head.framewise is False else ("frames", "samples")
            raise ValueError(
                f"{key} names {name!r}, whose layout {dataset.layout} labels {labels[1]}, and this head "
                f"learns from labels of {labels[0]}; name another data set"
            )
        learns = getattr(head, "targets", "label")
        if head.framewise is False and learns not in dataset.targets:
            have = " and ".join(TARGETS[of] for of in dataset.targets)
            column = f", or name its column: columns: {{{learns}: NAME}}" if "columns" in dataset.laid.takes else ""
            raise ValueError(
                f"{key} names {name!r}, whose samples have {have}, and this head learns "
                f"{TARGETS[learns]}; name another data set, or of a probe set targets: {dataset.targets[0]}{column}"
            )

    def gives(self, feature: str) -> Contents | None:
        """What a feature gives; None where it does not say. Raises ValueError for a feature that cannot be made."""
        chosen = self.features[feature]
        known, found = self._contents.get(feature, (None, None))
        if known is not chosen:
            try:
                found = chosen.gives({other: self.gives(other) for other in chosen.reads})
            except ValueError as error:
                raise ValueError(f"features.{feature}.{error}") from None
            self._contents[feature] = chosen, found
        return found

    def _given(self, key: str, role: str, read: Input, wanted: type | None) -> Given | None:
        """What a role is given; None where its feature does not say, or where it takes anything.

        Raises:
            ValueError: the feature gives something else, or of the data set there is none of it.
        """
        dataset, contents = self.datasets[read.dataset], self.gives(read.feature)
        if contents is None or wanted is None:
            return None
        found = readable(contents, wanted)
        if len(found) != 1:
            others = [name for name in self.features if readable(self.gives(name) or {}, wanted)]
            raise ValueError(
                f"{key} names {read.feature!r}, which gives {told(contents)}; expected {told_types(wanted)}: name "
                f"another feature ({', '.join(others) or 'declare one'})"
            )
        if (dataset.kind == "text") != (wanted is Texts):
            raise ValueError(
                f"{key} names {read.feature!r}, but {read.dataset} holds {NOUNS[dataset.kind]}; name another data set"
            )
        if isinstance(found[0], Maps) and not (dataset.masks or dataset.laid.maps):
            raise ValueError(
                f"{key} names {read.feature!r}, but {read.dataset} has no maps: its layout {dataset.layout} lists "
                "none, and masks is not set; name another data set"
            )
        if isinstance(found[0], Rows) and found[0].fps is None and dataset.label_fps is not None:
            raise ValueError(
                f"{key} names {read.feature!r}, whose fps is not set, and {read.dataset} has {dataset.label_fps:g} "
                "labels a second; set fps of the feature, its rows a second"
            )
        return Given(key, read.feature, found[0], self._alike)

    def _unmarked_fits(self, key: str, read: Input, head: Any) -> None:
        """Refuses what no head of this task can read in a role that says nothing of what it takes."""
        contents = self.gives(read.feature)
        if contents is not None and not any(isinstance(content, head.unmarked) for content in contents.values()):
            known = ((name, self.gives(name) or {}) for name in self.features)
            others = [name for name, of in known if any(isinstance(content, head.unmarked) for content in of.values())]
            raise ValueError(
                f"{key} names {read.feature!r}, which gives {told(contents)}; {head.task} reads what has one shape in "
                f"every sample: name another feature ({', '.join(others) or 'declare one'})"
            )

    def _alike(self, feature: str) -> frozenset[str]:
        """The features that differ from one in their weights at most, itself among them."""
        chosen = self.features[feature]
        same = (name for name, of in self.features.items() if type(of) is type(chosen) and of.reads == chosen.reads)
        return frozenset(name for name in same if name == feature or self.features[name].keyed == chosen.keyed)

    def _reading_fits(self, name: str, feature: AnyFeature) -> None:
        if isinstance(feature, I3DFeature) and feature.flow is not None:
            flow = self.features[feature.flow.feature]
            if not isinstance(flow, FlowFeature):
                raise ValueError(f"features.{name}.flow.feature names {feature.flow.feature!r}, which is no flow")
            if flow.sampling != feature.sampling:
                raise ValueError(
                    f"features.{name}.sampling is {feature.sampling.fps} fps, that of its flow {flow.sampling.fps}: "
                    "their rows must be of the same frames"
                )
        if isinstance(feature, DerivedFeature | MapsFeature):
            source = self.features[feature.source]
            derived = (DerivedFeature, ClipCamFeature) if isinstance(feature, MapsFeature) else ()
            if source.ragged or not isinstance(source, (PixelFeature, *derived)):
                raise ValueError(f"features.{name}.source names {feature.source!r}, which has no token grid")
        if isinstance(feature, ClipCamFeature):
            source = self.features[feature.source]
            if not isinstance(source, ClipFeature) or source.output != "cam_tokens" or source.sampling.count != 1:
                raise ValueError(
                    f"features.{name}.source names {feature.source!r}, which is not clip's cam_tokens of one frame"
                )
            if min(feature.cam_blocks) < source.block:
                raise ValueError(
                    f"features.{name}.cam_blocks has {min(feature.cam_blocks)}, but {feature.source} holds the input "
                    f"of block {source.block}; extract another feature with block: {min(feature.cam_blocks)}"
                )
        if (texts := feature.compares) is not None:
            self._vocabulary_fits(f"features.{name}.texts", texts)

    def _vocabulary_fits(self, key: str, texts: Vocabulary) -> None:
        _must_exist(f"{key}.dataset", texts.dataset, self.datasets, "datasets")
        _must_exist(f"{key}.feature", texts.feature, self.features, "features")
        if self.datasets[texts.dataset].kind != "text":
            raise ValueError(f"{key}.dataset names {texts.dataset!r}, which holds no texts")
        if not isinstance(self.features[texts.feature], TextFeature):
            raise ValueError(f"{key}.feature names {texts.feature!r}, which embeds no texts")

    def _compared_fits(self, name: str, texts: Vocabulary | None) -> None:
        """Refuses texts of another width or checkpoint than what a feature compares them with."""
        given = {}
        for key, feature in (
            (f"features.{name}", name),
            *([(f"features.{name}.texts", texts.feature)] if texts else []),
        ):
            for content in (self.gives(feature) or {}).values():
                given[key] = Given(key, feature, content)
        if texts:
            for what in ("width", "space"):
                refuse_unlike(given, list(given), what, "they are compared: embed the texts with the same checkpoint")

    def _claiming_fits(self, key: str, claim: Claim) -> None:
        for figure in claim.figures:
            _must_exist(key, figure.ablation, self.ablations, "ablations")
            ablation = self.ablations[figure.ablation]
            _must_exist(key, figure.variant, ablation.rows, f"ablations.{figure.ablation}")
            if ablation.seeds != self.ablations[claim.of.ablation].seeds:
                raise ValueError(f"{key} compares seed by seed, but its ablations have different seeds")

    def _searching_fits(self, key: str, search: Search) -> None:
        """Refuses what cannot be judged on a holdout, and every choice and end of a range that the head cannot have."""
        _must_exist(f"{key}.head", search.head, self.heads, "heads")
        head = self.heads[search.head]
        if not head.trains:
            raise ValueError(
                f"{key}.head names {search.head!r}, which trains nothing, so no trial can be judged on a holdout; "
                "compare its settings with an ablation's grid"
            )
        if not any(hasattr(head, field) for field in ("holdout", "holdout_split")):
            raise ValueError(
                f"{key}.head names {search.head!r}, which holds nothing out of training, and the evaluated split must "
                "choose nothing; give its Config a field holdout, the share held out, or holdout_split"
            )
        for place, axis in search.space.items():
            for value in axis.ends:
                try:
                    if self.changed(search.head, {place: value}).trains:
                        continue
                    problem = "a head that trains nothing cannot be judged on a holdout; remove it"
                except ParamsError as error:
                    problem = str(error)
                raise ValueError(f"{key}.space: {place} = {shown(repr(value))}: {problem}")
        for changes in search.rows.values():
            try:
                self.changed(search.head, changes)
            except ParamsError as error:
                raise ValueError(f"{key}.space: {shown(repr(changes))}: {error}") from None

    def _gpu_decodes(self, name: str) -> None:
        """A process that is forked cannot use the GPU that its parent has begun to use."""
        asks = f"features.{name}.decoder is torchcodec_cuda, "
        if self.compute.decode_workers:
            raise ValueError(
                f"{asks}which decodes in the process that computes; set compute.decode_workers: 0 (it is "
                f"{self.compute.decode_workers}), or decoder: torchcodec"
            )
        if self.compute.device == "cpu":
            raise ValueError(f"{asks}and compute.device is cpu; set compute.device: cuda, or decoder: torchcodec")

    def _fusing_fits(self, key: str, group: tuple[str, ...]) -> None:
        if len(set(group)) < 2:
            raise ValueError(f"{key} needs at least two features, got {list(group)}")
        for name in group:
            _must_exist(key, name, self.features, "features")
            if not isinstance(self.features[name], PixelFeature) or self.features[name].reads:
                raise ValueError(f"{key}: {name} does not begin with a decode, so there is nothing to share")
            if sum(name in other for other in self.fused) > 1:
                raise ValueError(f"{key}: {name} is in two groups")
        if len({(self.features[name].decoder, self.features[name].ragged) for name in group}) > 1:
            raise ValueError(f"{key}: {list(group)} differ in their decoder or in having a row a frame")

    def rendering(self, *datasets: str) -> dict[str, Any]:
        """What of `toyworld` decides these data sets: an edit for one renders no other; {} where none is rendered."""
        made = [rendering for name in datasets if (rendering := self.datasets[name].rendering)]
        sections = {"seed", *(Toyworld.RENDERINGS[rendering].section for rendering in made)}
        return self.toyworld.model_dump(mode="json", include=sections) if self.toyworld and made else {}

    def reading(self, *names: str) -> tuple[str, ...]:
        """The named features and all that they are made from, each once, the latter first."""
        found: dict[str, None] = {}
        for name in names:
            found |= dict.fromkeys((*self.reading(*self.features[name].reads), name))
        return tuple(found)

    def head(self, name: str) -> Any:
        """The head's sub-tree. Raises KeyError for a head that is not declared."""
        return self.heads[name]

    def compared(self, *names: str) -> tuple[Vocabulary, ...]:
        """The texts that the named features, and those that they are made from, are compared with."""
        found = (self.features[name].compares for name in self.reading(*names))
        return tuple(texts for texts in found if texts is not None)

    def replacing(self, head: str, config: Any) -> "Params":
        """These params with another sub-tree for one head."""
        return self.model_copy(update={"heads": {**self.heads, head: config}})

    def part(self, *, dataset: str | None = None, features: tuple[str, ...] = (), head: str | None = None) -> str:
        """Canonical JSON of the smallest params document that holds the named parts: what one rule may see.

        `compute` is always part of it: a job that another machine's threads trigger finds its work done.

        Args:
            dataset: name of a data set, or None.
            features: names of features.
            head: name of a head; its data set and features come along.
        """
        document: dict[str, Any] = {"compute": self.compute.model_dump(mode="json", exclude=Compute.CUTS)}
        datasets = () if dataset is None else (dataset,)
        if head is not None:
            chosen = self.head(head)
            document["heads"] = {head: chosen.model_dump(mode="json")}
            datasets = tuple(
                dict.fromkeys((chosen.dataset, *(read.dataset for read in chosen.evaluation_inputs.values())))
            )
            features = tuple(dict.fromkeys(read.feature for read in chosen.inputs.values()))
        texts = self.compared(*features)
        datasets = tuple(dict.fromkeys((*datasets, *(of.dataset for of in texts))))
        features = tuple(dict.fromkeys((*features, *(of.feature for of in texts))))
        if datasets:
            # Which features somebody wants of the data set, with which it is made and whether a plan looks at its
            # files is none of this part's business.
            elsewhere = {"features", "within", "watch"}
            described = {name: self.datasets[name].model_dump(mode="json", exclude=elsewhere) for name in datasets}
            document["datasets"] = described
            if rendered := self.rendering(*datasets):
                document["toyworld"] = rendered
        if features:
            chosen = self.reading(*features)
            document["features"] = {name: self.features[name].model_dump(mode="json") for name in chosen}
        return canonical_json(document)


def _with_targets(head: Any, datasets: Mapping[str, Dataset]) -> Any:
    """A head's document with the targets that its data set has, where it has such a choice and says nothing."""
    if not isinstance(head, Mapping) or "targets" in head:
        return head
    if not isinstance(kind := head.get("kind"), str) or kind not in KINDS:
        return head
    known = isinstance(name := head.get("dataset"), str) and name in datasets
    takes = known and "targets" in head_model(kind).model_fields
    return {**head, "targets": datasets[name].targets[0]} if takes else head


def _must_exist(key: str, name: str, known: Mapping[str, Any], section: str) -> None:
    if name not in known:
        raise ValueError(f"{key} names {name!r}, which is not in {section}: known are {sorted(known) or 'none'}")
