"""Claims about the verbs that need no video and no network: what they print and what they leave alone."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from typer.testing import CliRunner

from pipeline import cli
from pipeline.backbones import BackboneError
from pipeline.cli import app, features
from pipeline.config import feature_dir, load_params, parse_params
from pipeline.datasets import DatasetError, write_manifest
from pipeline.extraction import ExtractionFailed
from pipeline.plan import Plan
from pipeline.runs import only_writer
from pipeline.store import ShardWriter, StoreCorrupt, StoreFull, StoreMissing
from tests.datasets.made_up import made_up_manifest

ROOT = Path(__file__).parents[1]
DOCUMENT = {
    "datasets": {"set": {"layout": "images", "root": "pictures", "features": ["small"]}},
    "features": {
        "dino": {
            "backbone": "dinov3",
            "weights": {"random": 0},
            "sampling": {"frames": 1},
            "preprocess": {"resize": [32, 32]},
        },
        "small": {"backbone": "derived", "source": "dino", "pool": 2},
    },
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(json.dumps(DOCUMENT))
    return tmp_path


def run(*line: str) -> str:
    done = CliRunner().invoke(app, [str(word) for word in line], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(monkeypatch, capsys, *line: str) -> str:
    """What a verb that cannot go on says, as whoever calls it sees it."""
    monkeypatch.setattr(sys, "argv", ["pipeline", *line])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    return capsys.readouterr().err


SECTIONS = {"dataset": "datasets", "feature": "features", "features": "features", "head": "heads", "name": "ablations"}
GIVEN = {"dataset": "set", "feature": "small", "features": "dino", "files": "x.mp4", "keys": "012345", "out": "x.png"}


def lines_with_a_wrong_name() -> list:
    """Of every verb, and everything that it takes by name from params: a line that gets that one wrong."""
    found = []
    for verb, command in typer.main.get_command(app).commands.items():
        for wrong in command.params:
            if wrong.name not in SECTIONS:
                continue
            words = [verb]
            for parameter in command.params:
                word = "nope" if parameter is wrong else GIVEN.get(parameter.name)
                if parameter is wrong or parameter.required:
                    words += [word] if parameter.param_type_name == "argument" else [parameter.opts[0], word]
            section = "searches" if verb == "search" else SECTIONS[wrong.name]
            found.append(pytest.param(f"{section}.nope", words, id=" ".join(words)))
    return found


@pytest.mark.parametrize(("wrong", "line"), lines_with_a_wrong_name())
def test_a_name_that_params_do_not_declare_is_an_error_that_says_which_they_do(
    wrong, line, project, monkeypatch, capsys
):
    error = refused(monkeypatch, capsys, *line)
    known = {"datasets": "set", "features": "dino, small", "heads": "none"}.get(wrong.split(".")[0], "none")
    assert error == f"error: params.yaml declares no {wrong}: known are {known}; correct the name, or declare it\n"


def test_the_lines_with_a_wrong_name_are_of_every_verb_that_takes_one():
    verbs = {case.values[1][0] for case in lines_with_a_wrong_name()}
    assert verbs >= {"toyworld", "manifest", "extract", "derive", "train", "evaluate", "predict", "explain", "ablation"}


ROOT = Path(__file__).parents[1]


UNEVALUATED = (
    "result.json is not there: this run has not been evaluated; `snakemake {}` makes it with all that it needs"
)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train negalign", "negalign trains nothing; `python -m pipeline evaluate negalign` scores it from the caches"),
        ("mine gasm_cast", "gasm_cast compares with no negative words; name a head of the kind negalign"),
        ("train gasm_cast", "manifest.parquet is not there: `python -m pipeline manifest toy-ssv2` makes it"),
        ("mine negalign", "manifest.parquet is not there: `python -m pipeline manifest toy-waterbirds-words` makes it"),
        ("evaluate negalign", "manifest.parquet is not there: `python -m pipeline manifest toy-waterbirds` makes it"),
        ("predict x.mp4 --head gasm_cast", "run.json is not there: train the head first"),
        ("explain gasm_cast", "make it first: `snakemake results/ssv2_top1.json`"),
        ("report runs/fact/0123456789/0123456789 results/x.json", UNEVALUATED.format("results/x.json")),
        (
            "report runs/fact/0123456789/0123456789 x.json --params params.yaml",
            "`snakemake results/assembly_segmentation.json`",
        ),
        ("ablation fact_design", UNEVALUATED.format("results/ablations/fact_design.json")),
        ("claims", UNEVALUATED.format("results/claims.json")),
    ],
)
def test_a_verb_that_does_not_fit_or_comes_too_early_says_what_to_do_and_leaves_nothing(
    line, message, tmp_path, monkeypatch, capsys
):
    there = {"params.yaml", "studies", "weights", "configs"}
    for name in there:
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    # A machine without a GPU says so before, where a verb needs one.
    said = refused(monkeypatch, capsys, *line.split()).splitlines(keepends=True)
    error = "".join(part for part in said if not part.startswith("warning: compute.device is auto"))
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == there


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lr=.inf", "lr: Input should be a finite number, got inf"),
        ("lr=fast", "lr: Input should be a valid number, got 'fast'"),
        ("seed=2024-01-01", "seed: Input should be a valid integer, got '2024-01-01'"),
        ("seed=18446744073709551616", "seed: Input should be less than 9223372036854775808, got 18446744073709551616"),
        ("lr=[cast", "--set lr=[cast is not valid YAML, line 1, column 6: while parsing a flow sequence, expected"),
        ("lr=!!python/name:os.system x", "line 1: has the tag !!python/name:os.system, and params hold plain values"),
        ("lr", "--set lr: expected key=value, as in model.fusion=concat"),
        ("features.motion=nope", "features.motion names 'nope', which is not in features: known are"),
        ("dataset=nope", "dataset of semantic names 'nope', which is not in datasets: known are"),
        ("model.attention_heads=5", "model: width is 48, which 5 attention_heads do not divide; expected a multiple"),
        ("model={a: 1, a: 2}", "line 1: a: given in line 1 already; remove one of the two"),
        ("ema_decay=1", "ema_decay: Input should be less than 1, got 1"),
    ],
)
def test_an_override_that_cannot_be_is_one_line_with_its_key(change, message, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    error = refused(monkeypatch, capsys, "train", "gasm_cast", "--set", change)
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_params_document_that_cannot_be_read_is_one_line_with_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "latin.yaml": b"\xff",
        "list.yaml": b"[1]",
        "empty.yaml": b"",
        "tab.yaml": b"a:\n\tb: 1",
    }.items():
        Path(name).write_bytes(content)
    Path("folder").mkdir()
    said = {
        "nowhere.yaml": "nowhere.yaml does not exist; run from the project's root or name a file with --params",
        "folder": "folder is a folder; name a file with --params",
        "latin.yaml": "latin.yaml, line 1: is not UTF-8 text (invalid start byte); save it as UTF-8",
        "list.yaml": "list.yaml must hold a mapping at its top, got list",
        "empty.yaml": "empty.yaml must hold a mapping at its top, got nothing",
        "tab.yaml": "tab.yaml is not valid YAML, line 2, column 1: while scanning for the next token, found character "
        "'\\t' that cannot start any token",
        "{": "the params document on the command line is not valid JSON, line 1, column 2: "
        "Expecting property name enclosed in double quotes",
        '{"a": 1, "a": 2}': "the params document on the command line: the key 'a' is given twice; remove one",
        "x" * 300: f"{'x' * 300} cannot be read: File name too long",
    }
    for name, message in said.items():
        assert refused(monkeypatch, capsys, "info", "--params", name) == f"error: {message}\n"


class OutOfMemoryError(RuntimeError):
    """Torch's, by its name."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x/last.ckpt"),
            "runs/x/last.ckpt: No space left on device; free",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "results"),
            "results: Permission denied; get the right to it",
        ),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "out.json"), "out.json: Is a directory; name a file"),
        (FileExistsError(errno.EEXIST, "File exists", "videos.csv"), "videos.csv: File exists; name a folder"),
        (MemoryError(), "out of memory (no more is said); lower batch"),
        (
            OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
            "Tried to allocate 2 GiB.); lower batch",
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), "not enough memory); lower batch"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_machine_lacks_is_one_line_with_the_remedy(error, message, monkeypatch, capsys):
    def lacking() -> None:
        raise error

    monkeypatch.setattr(cli.base, "app", lacking)
    said = refused(monkeypatch, capsys)
    assert said.startswith("error: ") and message in said and said.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken() -> None:
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(cli.base, "app", broken)
    with pytest.raises(ValueError, match="broadcast"):
        cli.main()


def test_info_tells_of_a_damaged_store_and_of_all_the_others(project):
    intact = store(Path("features/set/dino-0000000000"))
    damaged = store(Path("features/set/dino-ffffffffff"))
    (damaged / "shard-000.json").write_bytes(b"{")
    done = CliRunner().invoke(app, ["info"], catch_exceptions=False)
    assert done.exit_code == 1 and intact.name in done.output
    assert f"{damaged}: {damaged}/shard-000.json is damaged" in done.output
    rows = [line.split("│")[1:-1] for line in done.output.splitlines() if "set/dino-" in line and "│" in line]
    assert len(rows) == 2 and all("nothing" in row[-1] for row in rows), "who uses it stands in its own column"


def store(directory: Path) -> Path:
    provenance = {"key": directory.name.rpartition("-")[2], "weights": "random:0"}
    with ShardWriter(directory / "shard-000", [("a", "1")], {"t": ((2,), "float16")}, provenance) as writer:
        writer.put("a", {"t": np.ones(2, np.float16)}, {})
        writer.finish()
    return directory


@pytest.mark.parametrize(
    "error",
    [
        StoreFull(errno.ENOSPC, "features/set/dino/shard-000: the disk is full; free some space and run again"),
        StoreCorrupt("features/set/dino: sample 'a' does not fit its crc32c; extract it again"),
        StoreMissing("features/set/dino/shard-000.json is not there; extract it first"),
        ExtractionFailed("features/set/dino: 2 of 3 samples failed"),
        DatasetError("pictures holds no picture; correct the root"),
        BackboneError("no such weights; download them"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_user_can_mend_is_one_line_and_no_traceback(project, monkeypatch, capsys, error):
    def fails(*_):
        raise error

    monkeypatch.setattr("pipeline.extraction.extract_range", fails)
    said = refused(monkeypatch, capsys, "extract", "set", "dino", "--shard", "0")
    assert said == f"error: {error}\n"


def test_what_no_user_can_mend_keeps_its_traceback(project, monkeypatch):
    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("pipeline.extraction.extract_range", fails)
    monkeypatch.setattr(sys, "argv", ["pipeline", "extract", "set", "dino", "--shard", "0"])
    with pytest.raises(OSError, match="Input/output error"):
        cli.main()


def test_prune_lists_what_no_params_refer_to_and_removes_it_only_when_told(project):
    params = parse_params(DOCUMENT)
    used = store(feature_dir(params, "set", "dino", Path("features")))
    stale = store(Path("features/set/dino-ffffffffff"))
    run_folder = Path("runs/gasm_cast/ffffffffff")
    run_folder.mkdir(parents=True)

    listed = run("prune")
    assert f"{stale}" in listed and f"{run_folder}" in listed and f"{used}" not in listed
    assert stale.exists() and run_folder.exists()

    run("prune", "--delete")
    assert used.exists() and not stale.exists() and not run_folder.exists()


def test_prune_lists_an_evaluation_that_no_params_refer_to_and_keeps_its_run(tmp_path, monkeypatch):
    for name in ("params.yaml", "studies", "weights", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    wanted = Plan(load_params("params.yaml")).run("gasm_cast")
    used, stale = wanted.evaluation_folder, wanted.folder / "ffffffffff"
    for folder in (used, stale):
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")
    said = run("prune", "--params", "params.yaml", "--delete")
    assert f"{stale}: 0.0 kB removed" in said and str(used) not in said
    assert (used / "result.json").exists() and not stale.exists()


def test_prune_keeps_what_any_of_several_params_refer_to(project):
    other = DOCUMENT | {"features": {"dino": DOCUMENT["features"]["dino"] | {"batch": 4}}, "datasets": {}}
    other["datasets"] = {"set": {"layout": "images", "root": "pictures"}}
    Path("other.yaml").write_text(json.dumps(other), encoding="utf-8")
    theirs = store(feature_dir(parse_params(other), "set", "dino", Path("features")))
    assert f"{theirs}" in run("prune")
    assert f"{theirs}" not in run("prune", "--params", "params.yaml", "--params", "other.yaml")


def test_prune_leaves_a_store_that_is_being_written(project):
    stale = store(Path("features/set/dino-ffffffffff"))
    with ShardWriter(stale / "shard-001", [("b", "2")], {"t": ((2,), "float16")}, {"key": "ffffffffff"}):
        assert "kept" in run("prune", "--delete")
    assert stale.exists()


def test_prune_keeps_what_the_sets_of_configs_refer_to(project):
    other = {"datasets": {"set": {"layout": "images", "root": "pictures"}}, "features": {}}
    other["features"] = {"dino": DOCUMENT["features"]["dino"] | {"batch": 4}}
    Path("configs").mkdir()
    Path("configs/real.yaml").write_text(json.dumps(other), encoding="utf-8")
    theirs = store(feature_dir(parse_params(other), "set", "dino", Path("features")))
    assert f"{theirs}" not in run("prune") and f"{theirs}" in run("prune", "--params", "params.yaml")


def test_prune_keeps_every_store_of_a_feature_whose_weights_are_gone_since_its_key_cannot_be_told(project):
    absent = DOCUMENT | {"features": {"dino": DOCUMENT["features"]["dino"] | {"weights": {"path": "gone"}}}}
    absent["datasets"] = {"set": {"layout": "images", "root": "pictures"}}
    Path("params.yaml").write_text(json.dumps(absent), encoding="utf-8")
    unknown, stale = store(Path("features/set/dino-ffffffffff")), store(Path("features/set/other-ffffffffff"))
    listed = run("prune")
    assert f"{unknown}" not in listed and f"{stale}" in listed


def test_prune_leaves_a_run_that_is_being_trained(project):
    run_folder = Path("runs/gasm_cast/ffffffffff")
    with only_writer(run_folder):
        assert "kept" in run("prune", "--delete")
    assert run_folder.exists()
    run("prune", "--delete")
    assert not run_folder.exists()


def test_prune_takes_links_of_a_store_and_leaves_what_they_lead_to(project):
    stale, cache = store(Path("features/set/dino-ffffffffff")), link_to_cache(Path("features/set/dino-ffffffffff"))
    assert re.search(rf"{stale}: 0\.\d kB removed", run("prune", "--delete"))  # the links alone
    assert not stale.exists() and all(path.exists() for path in cache)


def link_to_cache(directory: Path) -> dict[Path, bytes]:
    """Moves every file of a store into a read-only cache and links to it, as DVC does; the cache's files."""
    cache = {}
    for number, path in enumerate(sorted(path for path in directory.rglob("*") if path.is_file())):
        Path("cache").mkdir(exist_ok=True)
        kept = Path("cache").absolute() / str(number)
        path.rename(kept)
        kept.chmod(0o444)
        path.symlink_to(kept)
        cache[kept] = kept.read_bytes()
    return cache


def test_a_store_that_dvc_linked_grows_beside_the_cache_and_never_in_it(project):
    directory = store(Path("features/set/dino-ffffffffff"))
    (directory / "shard-000.lock").unlink()
    cache = link_to_cache(directory)
    (directory / "shard-000.json").unlink()
    for samples in ([("a", "1")], [("a", "1"), ("b", "2")]):
        with ShardWriter(
            directory / "shard-000", samples, {"t": ((2,), "float16")}, {"key": "ffffffffff", "weights": "random:0"}
        ) as writer:
            for sample in writer.pending:
                assert sample == "b"
                writer.put(sample, {"t": np.ones(2, np.float16)}, {})
            writer.finish()
    assert {path: path.read_bytes() for path in cache} == cache
    run("verify", directory)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{} -m pipeline verify features >/dev/full", "error: a file: No space left on device; free some space"),
        ("{} -m pipeline verify features | true", ""),
    ],
)
def test_a_full_disk_and_a_closed_pipe_end_a_verb_without_a_traceback(project, line, said):
    store(feature_dir(parse_params(DOCUMENT), "set", "dino", Path("features")))
    python = f"sleep 0.2; PYTHONPATH={ROOT} {sys.executable}"
    done = subprocess.run(line.format(python), shell=True, capture_output=True, text=True, check=False)
    assert done.stderr.startswith(said) and done.stderr.count("\n") == bool(said)
    assert done.stdout == ""


def test_verify_goes_below_a_data_set_and_below_all_and_never_stops_at_one(project):
    first, second = store(Path("features/set/dino-0000000000")), store(Path("features/other/dino-ffffffffff"))
    empty = Path("features/set/r3d-0123456789")
    empty.mkdir()
    (first / "shard-000.zarr/zarr.json").unlink()
    (first / "notes.txt").write_text("mine", encoding="utf-8")
    done = CliRunner().invoke(app, ["verify", "features", "features/nowhere"], catch_exceptions=False)
    assert done.exit_code == 1
    assert f"{first}: shard-000: shard-000.zarr/zarr.json is gone" in done.output
    assert f"{first}: notes.txt: belongs to no shard; move it out, or delete it" in done.output
    assert f"{first}: 2 not as it was written" in done.output
    assert f"{empty}: " in done.output and "holds no shard; run `extract`" in done.output
    assert f"{second}: intact" in done.output
    assert "\nfeatures/nowhere is no store and holds none" in done.output
    assert f"{second}: intact" in run("verify", "features/other")


def test_verify_knows_from_the_data_set_s_manifest_which_shards_are_gone(project):
    directory = store(Path("features/set/dino-0000000000"))
    manifest = Path("features/set/manifest.parquet")
    samples = pd.DataFrame({"sample": ["a", "b"], "path": None, "label": None, "template": None, "split": "all"})
    write_manifest(made_up_manifest(samples, shard_size=1), manifest)
    done = CliRunner().invoke(app, ["verify", "features/set"], catch_exceptions=False)
    assert done.exit_code == 1
    assert (
        f"{directory}: shard-001: is not there, though the data set's manifest names it: run `extract`" in done.output
    )
    write_manifest(made_up_manifest(samples[:1], shard_size=1), manifest)
    assert f"{directory}: intact" in run("verify", directory)
    manifest.write_bytes(b"no table")
    done = CliRunner().invoke(app, ["verify", "features/set"], catch_exceptions=False)
    assert done.exit_code == 1 and "manifest.parquet is not a Parquet file" in done.output


def test_a_store_in_the_folder_of_another_key_is_a_finding_and_an_error_of_info(project):
    moved = Path("features/set/dino-ffffffffff")
    store(Path("features/set/dino-0000000000")).rename(moved)
    for verb in (("verify", "features"), ("info",)):
        done = CliRunner().invoke(app, verb, catch_exceptions=False)
        assert done.exit_code == 1
        assert "its key is 0000000000, and its folder is named by ffffffffff" in done.output


def test_info_says_which_features_lack_their_weights_and_goes_on(project):
    used = store(feature_dir(parse_params(DOCUMENT), "set", "dino", Path("features")))
    absent = {
        "dino": DOCUMENT["features"]["dino"],
        "other": DOCUMENT["features"]["dino"] | {"weights": {"path": "gone"}},
    }
    data = {"set": {"layout": "images", "root": "pictures", "features": ["dino", "other"]}}
    Path("params.yaml").write_text(json.dumps({"datasets": data, "features": absent}), encoding="utf-8")
    text = run("info")
    assert "the store of other cannot be told: features.other: weights gone do not exist" in text
    assert used.name in text and "datasets.set" in text


def test_info_says_what_computed_a_store_and_what_several_environments_differ_in(project):
    directory = feature_dir(parse_params(DOCUMENT), "set", "dino", Path("features"))
    key = directory.name.rpartition("-")[2]
    for number, device in enumerate(("cpu", "cuda")):
        base, made_by = directory / f"shard-{number:03d}", {"device": {"type": device}}
        of = {"key": key, "weights": {"rgb": "0123456789abcdef", "flow": "random:7"}}
        with ShardWriter(base, [(device, "1")], {"t": ((2,), "float16")}, of, made_by) as writer:
            writer.fail(device, "gone")
            writer.finish()
    said = "".join(run("info").split())
    assert "cpu,cuda;mixed:device.typecpuorcuda│" in said and "│random:7,0123456789ab│" in said


def test_info_says_who_uses_a_store(project):
    store(feature_dir(parse_params(DOCUMENT), "set", "dino", Path("features")))
    store(Path("features/set/dino-ffffffffff"))
    text = run("info")
    assert "small" in text and "nothing in these params" in text


@pytest.mark.parametrize(
    ("asked", "found"), [(None, [0, 1, 4, 7]), ("4", [4]), ("1-5", [1, 4]), ("000-001", [0, 1]), ("9", [9])]
)
def test_a_range_of_shards_is_those_that_the_manifest_has(project, monkeypatch, asked, found):
    monkeypatch.setattr("pipeline.datasets.read_shards", lambda path: dict(zip("abcde", (0, 1, 4, 7, 7), strict=True)))
    monkeypatch.setattr("pipeline.plan.Plan.shards", lambda self, dataset: [0, 1, 4, 7])
    monkeypatch.setattr(Path, "exists", lambda self: True)
    assert features.numbers(parse_params(DOCUMENT), "set", asked, Path("features")) == found


@pytest.mark.parametrize(("asked", "said"), [("0-7", ""), ("4-99", "set has shards 0 to 7; 4 to 7 are made")])
def test_a_range_beyond_the_end_says_so_in_a_line(project, monkeypatch, capsys, asked, said):
    monkeypatch.setattr("pipeline.datasets.read_shards", lambda path: dict(zip("abcd", (0, 1, 4, 7), strict=True)))
    monkeypatch.setattr(Path, "exists", lambda self: True)
    features.numbers(parse_params(DOCUMENT), "set", asked, Path("features"))
    assert capsys.readouterr().out == (f"--shards {asked}: {said}\n" if said else "")


@pytest.mark.parametrize("asked", ["2-3", "5-4", "-1", "a", "1-", "1-b", ""])
def test_a_range_without_a_shard_is_one_error_that_says_which_there_are(project, monkeypatch, asked):
    monkeypatch.setattr("pipeline.datasets.read_shards", lambda path: {"a": 0, "b": 7})
    monkeypatch.setattr(Path, "exists", lambda self: True)
    with pytest.raises((DatasetError, typer.BadParameter), match=r"0 to 7|as in 3-66"):
        features.numbers(parse_params(DOCUMENT), "set", asked, Path("features"))


@pytest.fixture
def rows(project, monkeypatch):
    """A head with an ablation of two variants and two seeds, in params.yaml; what a verb was called with, by name."""
    from tests.training.learnable import made_params

    document = json.loads(made_params().model_dump_json())
    variants = {"reference": {}, "concat": {"model.fusion": "concat"}, "on_test": {"eval_split": "test"}}
    document["ablations"] = {"table": {"head": "gasm_cast", "seeds": [0, 1], "variants": variants}}
    (project / "params.yaml").write_text(json.dumps(document))
    seen: list[str] = []
    stub = lambda runs, work, say: seen.extend(runs)  # noqa: E731
    for package, names in (("training", "train"), ("evaluation", "evaluate"), ("series", "each")):
        monkeypatch.setitem(sys.modules, f"pipeline.{package}", SimpleNamespace(**{names: stub}))
    return seen


def test_several_runs_are_named_by_their_ablation_or_their_keys_each_once(rows):
    run("train", "gasm_cast", "--runs", "table")
    assert [name.partition(" (")[0] for name in rows] == [
        "reference, seed 0", "reference, seed 1", "concat, seed 0", "concat, seed 1",
    ], "one training serves two evaluations"  # fmt: skip
    plan = Plan(load_params("params.yaml"))
    wanted = plan.ablated("table")["concat", 1]
    del rows[:]
    run("train", "gasm_cast", "--runs", wanted.key, "--runs", wanted.key)
    run("evaluate", "gasm_cast", "--runs", f"{wanted.key}/{wanted.evaluation}")
    assert rows == [f"concat, seed 1 ({wanted.folder})"] * 2
    del rows[:]
    run("evaluate", "gasm_cast", "--runs", "table")
    assert len(rows) == 6


@pytest.mark.parametrize(
    ("line", "compute", "says"),
    [
        (["--runs", "tabel"], {}, "known are table, "),
        (["--runs", "table", "--set", "lr=0.1"], {}, "give one of the two"),
        (["--runs", "table"], {"devices": 2}, "trains on one device"),
    ],
)
def test_runs_that_cannot_be_made_together_are_one_error(rows, line, compute, says):
    document = json.loads(Path("params.yaml").read_text(encoding="utf-8"))
    document["compute"] |= compute
    Path("params.yaml").write_text(json.dumps(document), encoding="utf-8")
    done = CliRunner().invoke(app, ["train", "gasm_cast", *line], env={"COLUMNS": "500"})
    assert done.exit_code == 2 and says in " ".join(done.output.split()) and rows == []


LOCALES = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ISO": {"PYTHONIOENCODING": "iso-8859-1"},
}


@pytest.mark.parametrize("locale", LOCALES)
def test_files_and_logs_are_utf_8_whatever_the_locale(project, locale):
    """One process: what it writes, reads again and prints holds letters that the locale does not know."""
    texts = {"layout": "texts", "root": "texts.txt"}
    document = {"datasets": {"texts": texts}, "features": {}, "heads": {}}
    (project / "params.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    (project / "texts.txt").write_text("γ-Grüße\n日本\n", encoding="utf-8")
    script = """
import sys
from pipeline import cli
from pipeline.datasets import read_manifest
from pipeline.projects import FEATURES
for line in (["manifest", "texts"], ["manifest", "texts"], ["page"], ["info"], ["prune", "--params", "params.yaml"]):
    sys.argv = ["pipeline", *line]
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code, (line, ended.code)
cli.say(" ".join(read_manifest(FEATURES / "texts" / "manifest.parquet")["sample"]) + " caf\\udce9")
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    environment |= LOCALES[locale] | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode("utf-8").splitlines()[-1] == "γ-Grüße 日本 caf\\udce9"
    assert not (project / "results/report.html").read_text(encoding="utf-8").isascii()
