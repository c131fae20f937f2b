"""What DVC remembers of the workflow: what is pulled is not made again, what is edited is, and nothing else."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import ROOT, Project, small
from tests.workflow.forks import planners
from tests.workflow.states import committed_samples

TRACKED = (".dvc/config", ".dvcignore", ".gitignore", "dvc.yaml", "pipeline", "features/README.md")
HEADS = ("gasm_cast", "clip_align")
# All that a clone may want: nothing that trains, extracts or renders.
FINAL = {"evaluate", "mine", "result", "explain", "page", "all"}


# --- dvc.yaml ---------------------------------------------------------------------------------------------------------


def read(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text())


def outs_of(stage: dict) -> list[str]:
    return [next(iter(out)) for out in stage["outs"]]


def test_every_data_set_is_an_out_and_every_rendered_one_twice():
    datasets = read("params.yaml")["datasets"]
    wanted = {f"features/{name}" for name in datasets}
    wanted |= {f"data/{name}" for name, of in datasets.items() if of.get("made_by") == "toyworld"}
    assert set(outs_of(read("dvc.yaml")["stages"]["features"])) == wanted


def test_what_a_stage_depends_on_is_there_and_a_head_is_named_in_params_alone():
    text, stages = (ROOT / "dvc.yaml").read_text(), read("dvc.yaml")["stages"]
    deps = {path for stage in stages.values() for path in stage.get("do", stage)["deps"] if "$" not in path}
    assert all((ROOT / path).exists() for path in deps - {"runs"})
    for name, of in read("params.yaml")["heads"].items():
        assert of["result"] not in text and f"runs/{name}" not in text


def test_hard_links_are_never_asked_for_since_they_make_outputs_read_only():
    assert 'type = "reflink,symlink,copy"' in (ROOT / ".dvc/config").read_text()


def test_locks_stay_on_the_machine_and_dvc_s_own_is_tracked():
    lines = (ROOT / ".dvcignore").read_text().splitlines()
    assert {"/features/**/*.lock", "/runs/**/lock"} <= set(lines) and "*.lock" not in lines


# --- a project of two heads, as a user has it -------------------------------------------------------------------------


class Tracked(Project):
    """A project under git and DVC, with its own copy of the code, which Snakemake's plans are of."""

    called = "jobs"

    def __init__(self, root: Path) -> None:
        root.mkdir()
        super().__init__(root)
        for name in TRACKED:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            source = ROOT / name
            ignored = shutil.ignore_patterns("__pycache__")
            _ = (
                shutil.copytree(source, root / name, ignore=ignored)
                if source.is_dir()
                else shutil.copy(source, root / name)
            )
        self.adopt(root)
        self.change(two_heads)
        document = yaml.safe_load((root / "dvc.yaml").read_text())
        stages = document["stages"]
        kept = ("toy-ssv2", "toy-clinic")
        stages["features"]["outs"] = [out for out in stages["features"]["outs"] if next(iter(out)).endswith(kept)]
        (root / "dvc.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        self.run("git init -q")
        self.commit()

    def adopt(self, root: Path) -> None:
        """Makes `root` where commands run, with links to the cache even where the file system could do better."""
        self.root = root
        names = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        self.environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        self.environment |= names | {"PYTHONPATH": str(root), "DVC_NO_ANALYTICS": "1"}

    def calling(self, which: str) -> dict[str, str]:
        """As for any project, and Snakemake and DVC are calls beside the jobs, from the code in this project."""
        environment = super().calling(which)
        first = f"{planners(self.root)}{os.pathsep}" if which == "jobs" else ""
        return environment | {"PATH": f"{first}{environment['PATH']}"}

    def commit(self) -> None:
        self.run("git add -A")
        self.run("git commit -q -m step")

    def clone(self, target: Path) -> "Tracked":
        """A clone with all that was pushed."""
        self.run(f"git clone -q {self.root} {target}")
        clone = object.__new__(Tracked)
        clone.adopt(target)
        clone.run("dvc config --local cache.type symlink")
        clone.run("dvc pull")
        return clone


def two_heads(document: dict) -> None:
    small(document)
    document["toyworld"] = {name: document["toyworld"][name] for name in ("seed", "ssv2", "clinic")}
    document["toyworld"]["ssv2"] |= {"size": 64}
    document["datasets"] = {name: document["datasets"][name] for name in ("toy-ssv2", "toy-clinic")}
    document["datasets"]["toy-ssv2"] |= {"features": []}
    names = ("dinov3_patches", "r3d18_clips", "attention_maps")
    document["features"] = {name: document["features"][name] for name in names}
    document["heads"] = {name: document["heads"][name] for name in HEADS}
    document["ablations"], document["claims"] = {}, {}


def journals(root: Path) -> dict[str, int]:
    """Shard -> samples of the whole lines of its journal, a line a batch."""
    found = root.glob("features/*/*-*/shard-*.journal")
    return {str(journal.relative_to(root / "features")): committed_samples(journal) for journal in found}


def kill_while_extracting(project: Project, least: int) -> dict[str, int]:
    """Kills `dvc repro` and all that it started once so many samples are committed; returns what was, by shard."""
    job = subprocess.Popen(
        ["dvc", "repro", "features"],
        cwd=project.root,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while sum(journals(project.root).values()) < least:
        assert job.poll() is None, "finished before it could be killed"
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    return journals(project.root)


@pytest.fixture(scope="module")
def room():
    """A folder that every user can enter, as pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="permafrost-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def killed(room) -> tuple[Tracked, dict[str, int], dict[str, int]]:
    """A project whose extraction was killed under DVC and resumed: what was committed then, and found afterwards."""
    project = Tracked(room / "project")
    committed = kill_while_extracting(project, 16)
    project.run("dvc repro")
    found = {}
    for shard in committed:
        log = project.root / "logs/extract" / Path(shard).with_suffix(".log")
        line = next(line for line in log.read_text().splitlines() if "samples are there" in line)
        found[shard] = int(line.split(": ")[1].split()[0])
    return project, committed, found


@pytest.fixture(scope="module")
def tracked(killed, room) -> Tracked:
    """The finished project, pushed to a folder."""
    project = killed[0]
    project.run(f"dvc remote add -d folder {room / 'remote'}")
    project.run("dvc push")
    project.commit()
    return project


@pytest.fixture(scope="module")
def cloned(tracked, room) -> tuple[Tracked, Path]:
    """A clone, and a copy of it as it was: links to its cache lead to its place."""
    clone = tracked.clone(room / "clone")
    return clone, shutil.copytree(clone.root, room / "as it was", symlinks=True)


@pytest.fixture
def clone(cloned) -> Tracked:
    clone, as_it_was = cloned
    shutil.rmtree(clone.root)
    shutil.copytree(as_it_was, clone.root, symlinks=True)
    clone.called = Tracked.called
    return clone


@pytest.mark.slow
def test_an_extraction_killed_under_dvc_resumes_with_what_was_committed(killed):
    _, committed, found = killed
    assert committed and found == committed
    assert sum(committed.values()) >= 16


@pytest.mark.slow
def test_a_second_repro_does_nothing(tracked):
    assert set(tracked.run("dvc repro").stdout.splitlines()) == {
        "Stage 'features' didn't change, skipping",
        *(f"Stage 'head@{head}' didn't change, skipping" for head in HEADS),
        *(f"Stage 'explanation@{head}' didn't change, skipping" for head in HEADS),
        "Stage 'page' didn't change, skipping",
        "Data and pipelines are up to date.",
    }


@pytest.mark.slow
def test_keys_in_another_order_run_nothing_under_snakemake_and_dvc(tracked):
    def backwards(node):
        return {key: backwards(node[key]) for key in reversed(node)} if isinstance(node, dict) else node

    params = tracked.root / "params.yaml"
    before = params.read_text()
    params.write_text(yaml.safe_dump(backwards(yaml.safe_load(before)), sort_keys=False))
    assert tracked.jobs("snakemake --cores 2") == {}
    assert "up to date" in tracked.run("dvc status").stdout
    params.write_text(before)


@pytest.mark.slow
def test_every_picture_that_dvc_shows_is_made(tracked):
    for result in ("ssv2_top1", "clinic_clip_align"):
        for folder in ("report", "explanation"):
            pictures = list((tracked.root / "results" / result / folder / "pictures").iterdir())
            assert len(pictures) > 1 and all(one.read_bytes().startswith(b"\x89PNG") for one in pictures)


@pytest.mark.slow
def test_a_clone_wants_final_evaluations_at_most_and_an_edit_runs_that_head_only(clone):
    assert any((clone.root / "features").rglob("shard-*.json")) and not any(clone.root.rglob("shard-*.lock"))
    line = "snakemake --cores 2"
    assert set(clone.jobs(line)) <= FINAL
    clone.run(f"{line} --touch")
    clone.change(lambda document: document["heads"]["gasm_cast"].update(lr=0.008))
    of_that_head = ("train", "evaluate", "result", "explain", "page", "all")
    assert clone.jobs(line) == dict.fromkeys(of_that_head, 1)
    status = clone.run("dvc status").stdout
    assert "head@gasm_cast:" in status and "clip_align" not in status and "features:" not in status


@pytest.mark.slow
def test_a_clone_sees_that_the_toy_world_was_edited_for_one_data_set_only(clone):
    clone.change(lambda document: document["toyworld"]["clinic"].update(val=8))
    out = clone.run("snakemake --cores 2 -n").stdout
    assert "output: data/toy-clinic/.rendered" in out and "output: data/toy-ssv2/.rendered" not in out


@pytest.mark.slow
def test_an_experiment_extracts_nothing_and_its_metrics_are_compared(clone):
    before = {path: path.stat().st_mtime_ns for path in clone.root.glob("features/**/shard-*")}
    heads = " ".join(f"head@{head}" for head in HEADS)
    out = clone.run(f"dvc exp run -S heads.gasm_cast.lr=0.004 {heads}").stdout
    assert "rule train" in out and "rule extract" not in out and "localcheckpoint" not in out
    assert "Stage 'head@clip_align' didn't change, skipping" in out
    assert {path: path.stat().st_mtime_ns for path in clone.root.glob("features/**/shard-*")} == before
    compared = json.loads(clone.run("dvc metrics diff --json").stdout)["results/ssv2_top1.json"]
    assert compared["provenance.params.lr"]["new"] == 0.004
    assert "plots" in clone.run("dvc plots diff --targets results/ssv2_top1/report/pictures").stdout


@pytest.mark.slow
def test_an_ordinary_user_reads_what_dvc_linked_and_writes_beside_the_cache_never_into_it(clone):
    # Root without the rights that let it past the permissions of files is an ordinary user who owns them.
    ordinary = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"] if os.getuid() == 0 else []
    if ordinary and not shutil.which("setpriv"):
        pytest.skip("we are root, and there is no setpriv to be an ordinary user with")
    folder = next(clone.root.glob("features/toy-ssv2/r3d18_clips-*"))
    shard = folder / "shard-000.json"
    assert shard.is_symlink()
    cache = {path: path.read_bytes() for path in clone.root.glob(".dvc/cache/**/*") if path.is_file()}
    clone.called = "none"  # calls have the rights of the tests

    def as_user(line: str, check: bool = True) -> str:
        return clone.run(" ".join([*ordinary, line]), check).stdout

    assert "ermission denied" in as_user(f"truncate --size 0 {shard}", check=False)
    assert "intact" in as_user(f"{sys.executable} -m pipeline verify {folder.relative_to(clone.root)}")
    shard.unlink()
    assert "computed 0 of 64" in as_user(f"snakemake --cores 1 {shard.relative_to(clone.root)}")
    as_user(f"{sys.executable} -m pipeline manifest toy-ssv2")
    assert {path: path.read_bytes() for path in cache} == cache
