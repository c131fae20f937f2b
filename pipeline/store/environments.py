"""By what a store was computed: devices and versions, which are part of no key. Knows no shard and no file.

An environment is a JSON object, such as {"device": {...}, "versions": {...}}. A provenance lists under "environments"
the distinct ones that its samples were computed by; those of the features that it was made from lie in its "reads".
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.config import canonical_json, flat

Environment = dict[str, Any]


def distinct(environments: Iterable[Environment]) -> list[Environment]:
    """Each once, in the order in which they come."""
    return list({canonical_json(of): of for of in environments}.values())


def merged(provenances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The provenance of several shards of one store: the first one's, with the environments of all, down the chain."""
    first = dict(provenances[0])
    if all(other == first for other in provenances):
        return first
    if found := distinct(of for other in provenances for of in listed(other)):
        first["environments"] = found
    if reads := first.get("reads"):
        chains = {name: [other["reads"][name] for other in provenances if name in other["reads"]] for name in reads}
        first["reads"] = {name: merged(chain) for name, chain in chains.items()}
    return first


def listed(provenance: Mapping[str, Any]) -> list[Environment]:
    """The environments of a provenance itself; of an older one what it has of them."""
    if "environments" in provenance or "versions" not in provenance:
        return provenance.get("environments", [])
    return [{"device": {"type": provenance["device"]}, "versions": provenance["versions"]}]


def by_feature(provenances: Iterable[Mapping[str, Any]]) -> dict[str, list[Environment]]:
    """<feature>-<key> -> the distinct environments that it was computed by, of all that these stores rest on."""
    found: dict[str, list[Environment]] = {}
    for provenance in provenances:
        name = "-".join(provenance[part] for part in ("feature", "key") if part in provenance)
        if own := listed(provenance):
            found[name] = distinct([*found.get(name, []), *own])
        for other, environments in by_feature(provenance.get("reads", {}).values()).items():
            found[other] = distinct([*found.get(other, []), *environments])
    return found


def apart(environments: Sequence[Environment]) -> str:
    """What environments differ in.

    >>> apart([{"device": {"type": "cpu"}, "av": "18"}, {"device": {"type": "cuda"}, "av": "18"}])
    'device.type cpu or cuda'
    """
    told = [flat(of) for of in environments]
    names = sorted({name for of in told for name in of})
    values = {name: list(dict.fromkeys(str(of.get(name, "unknown")) for of in told)) for name in names}
    return ", ".join(f"{name} {' or '.join(of)}" for name, of in values.items() if len(of) > 1)
