"""What a job asks of a machine is what it starts and holds; a job that was given less starts less."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from snakemake.iocontainers import Wildcards
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config import PixelFeature, load_params, parse_params, read_documents
from pipeline.config.contents import Rows, Tokens
from pipeline.jobs.needs import Needs
from pipeline.jobs.results import Results
from pipeline.memory import BATCHES_AHEAD
from pipeline.plan import Plan
from pipeline.resources import (
    MB,
    Share,
    of_evaluation,
    of_extraction,
    of_training,
    sample_bytes,
    within,
)

ROOT = Path(__file__).parents[1]
FILES = ["params.yaml", *sorted(f"configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml"))]
CORES = range(1, 33)


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def params_with(**compute):
    document = read_documents([ROOT / "params.yaml"]).document
    document["compute"] |= compute
    return parse_params(document)


@pytest.mark.parametrize("file", FILES)
def test_a_job_of_any_config_asks_for_every_thread_and_process_that_it_starts(file):
    params = load_params(file)
    compute = params.compute
    for names in [*params.fused, *((name,) for name in params.features)]:
        # extraction.loop: decode processes where pixels are read, beside the threads of the backbone.
        workers = compute.decode_workers if isinstance(params.features[names[0]], PixelFeature) else 0
        assert of_extraction(params, *names).cores == compute.extract_threads + workers
    for head in params.heads.values():
        readers = compute.decode_workers if hasattr(head, "batch_size") else 0
        assert of_evaluation(params, head).cores == compute.threads + readers
        assert of_training(params, head).cores == compute.devices * (compute.threads + readers)
    for cores in CORES:
        for threads in (compute.threads, compute.extract_threads):
            assert threads + within(compute, cores, threads).decode_workers <= max(cores, threads)


@pytest.mark.parametrize("file", FILES)
def test_a_job_of_any_config_asks_for_the_memory_that_it_may_hold_and_no_machine_is_too_small_for_it(file):
    params = load_params(file)
    compute = params.compute
    for head in params.heads.values():
        asked = of_training(params, head).memory
        assert compute.cache_memory_gb * 1e9 < asked < 128e9
    for name, feature in params.features.items():
        asked = of_extraction(params, name).memory
        batch = 12 * 224 * 224 * (feature.sampling.count or feature.batch) if isinstance(feature, PixelFeature) else 0
        assert batch < asked < 64e9


def test_the_memory_of_a_training_is_that_of_its_readers_and_of_what_it_keeps():
    params = params_with(device="cpu", decode_workers=0, cache_memory_gb=1.0)
    head = params.heads["gasm_cast"]
    # Of float16: 8 steps of 4 x 4 tokens and a CLS token of 128; how wide R3D-18's are its weights tell at extraction.
    batch = head.batch_size * (2 * 8 * (4 * 4 + 1) * 128 + 3 * MB)
    alone = of_training(params, head).memory
    read = of_training(params_with(device="cpu", decode_workers=3, cache_memory_gb=1.0), head).memory
    assert read - alone == 3 * (2 * 400 * MB + BATCHES_AHEAD * batch)
    four = of_training(params_with(device="cpu", decode_workers=0, cache_memory_gb=1.0, devices=4), head)
    assert four == Share(4 * params.compute.threads, 4 * alone)
    nodes = of_training(params_with(device="cpu", decode_workers=0, cache_memory_gb=1.0, devices=4, nodes=2), head)
    assert nodes == Share(params.compute.threads, 4 * alone), (
        "a scheduler gives each process of several nodes its cores"
    )


def test_sizes_follow_what_a_feature_gives():
    rows = Rows(2048, 15.0)
    frames = SimpleNamespace(storage="float16")
    assert list(sample_bytes({"frames": rows}, frames, 60.0)) == [901 * 2048 * 2]
    tokens = {"clip_tokens": Tokens(8, (7, 7), 512)}
    assert list(sample_bytes(tokens, SimpleNamespace(storage="int8"), None)) == [8 * 49 * 512]
    with pytest.raises(LookupError):
        list(sample_bytes({"clip_tokens": Tokens(8)}, frames, None))
    with pytest.raises(LookupError):
        list(sample_bytes(None, frames, None))


def test_no_profile_takes_away_what_a_rule_asks_for():
    for path in (ROOT / "profiles").glob("*/config.yaml"):
        profile = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert "set-threads" not in profile
        for rule, of in profile.get("set-resources", {}).items():
            asks = rule.startswith(("extract", "derive", "train", "evaluate"))
            assert not asks or not {"mem_mb", "mem", "cpus_per_task", "threads"} & of.keys(), f"{path}: {rule}"


# --- of a job that was given less -------------------------------------------------------------------------------------


def stub(monkeypatch, package, **functions):
    """In place of a package whose import costs seconds."""
    monkeypatch.setitem(sys.modules, f"pipeline.{package}", SimpleNamespace(**functions))


@pytest.mark.parametrize(("cores", "workers"), [(16, 12), (8, 4), (4, 0), (2, 0)])
def test_an_extraction_starts_as_many_decode_processes_as_its_cores_leave(monkeypatch, cores, workers):
    seen = []
    stub(monkeypatch, "extraction", extract_range=lambda params, *of: seen.append(params.compute))
    document = params_with(extract_threads=4, decode_workers=12).model_dump_json()
    line = ["--cores", str(cores), "extract", "toy-ssv2", "r3d18_clips", "--shards", "0", "--params", document]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert [(of.extract_threads, of.decode_workers) for of in seen] == [(4, workers)]
    said = f"--cores {cores}: {workers} of the 12 of compute.decode_workers are started\n"
    assert done.output == ("" if workers == 12 else said)


def test_the_processes_of_a_training_share_its_cores(monkeypatch):
    seen = []
    stub(monkeypatch, "training", train=lambda run: seen.append(run.params.compute))
    document = params_with(device="cpu", threads=2, decode_workers=12, devices=4).model_dump_json()
    for line in (["--cores", "20"], []):
        done = CliRunner().invoke(app, [*line, "train", "gasm_cast", "--params", document])
        assert done.exit_code == 0, done.output
    assert [(of.threads, of.decode_workers) for of in seen] == [(2, 3), (2, 12)], "by hand, all that params say"


# --- of GPUs that have no job -----------------------------------------------------------------------------------------


def jobs_on(params, cores, gpus, local=True):
    given = {"_cores": SimpleNamespace(value=cores)} | ({"gpu": SimpleNamespace(value=gpus)} if gpus else {})
    workflow = SimpleNamespace(global_resources=given, is_main_process=True, local_exec=local)
    return Needs(Plan(params), workflow)


def shards(count):
    return [Wildcards(fromdict={"feature": "i3d_frames", "shard": f"{shard:03d}"}) for shard in range(count)]


def test_where_cores_let_fewer_jobs_run_than_there_are_gpus_one_line_says_so_with_the_remedy(capsys):
    jobs = jobs_on(params_with(device="cuda", extract_threads=1, decode_workers=12), cores=32, gpus=8)
    cores = jobs.cores_to_extract()
    assert [cores(shard) for shard in shards(2)] == [13, 13]
    assert capsys.readouterr().err == "", "two run at once, and no third waits"
    assert [cores(shard) for shard in shards(9)] == [13] * 9
    assert capsys.readouterr().err == (
        "6 of 8 GPUs stay idle: an extraction of i3d_frames takes 13 cores of 32; give --cores 104, or lower "
        "compute.extract_threads + decode_workers to 4\n"
    )
    few = jobs_on(params_with(device="cuda", threads=2, decode_workers=12, devices=2), cores=4, gpus=4)
    runs = [Wildcards(fromdict={"head": head, "key": key}) for head, key in list(few.plan.runs)[:2]]
    assert [few.cores_to_train(Results(few.plan, None, None).trained)(run) for run in runs] == [28, 28]
    assert capsys.readouterr().err == (
        "2 of 4 GPUs stay idle: a training takes 28 cores of 4; give --cores 56, or lower compute.threads + "
        "decode_workers to 1\n"
    )


def test_where_each_gpu_has_a_job_or_another_machine_counts_nothing_is_said(capsys):
    params = params_with(device="cuda", extract_threads=1, decode_workers=3)
    for cores, gpus, local in ((32, 8, True), (16, 4, True), (4, 0, True), (None, 8, True), (4, 8, False)):
        found = jobs_on(params, cores, gpus, local).cores_to_extract()
        assert {found(shard) for shard in shards(9)} == {4}
    found = jobs_on(params_with(device="cpu"), 1, 8).cores_to_extract()
    assert len([found(shard) for shard in shards(9)]) == 9
    assert capsys.readouterr().err == ""
