"""What of the code enters a run's key: its task's and its head's, whatever else is edited."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline import plugins
from pipeline.config import load_params, parse_params, read_documents
from pipeline.config.heads import KINDS, head_model
from pipeline.plan import Plan
from pipeline.reports.importance import METRICS
from pipeline.sources import digest
from pipeline.tasks import TASKS, Column

ROOT = Path(__file__).parents[2]
CODE = (
    "samples",
    "model",
    "table",
    "step",
    "evaluate",
    "follows",
    "publish",
    "predict",
    "points",
    "streams",
    "page",
    "headlines",
)
HEADS = {kind: head_model(kind) for kind in KINDS}
# A kind that learns several sorts of targets has a model, and a task, of each.
MODELS = {
    model.task: (kind, model)
    for kind, of in HEADS.items()
    for model in map(of.for_targets, ("target", "labels", "label"))
}
PROBE = "  probe: {kind: probe, dataset: toy-ssv2, features: dinov3_patches, result: probe, eval_split: validation}"


def place(kind: str) -> str:
    return HEADS[kind].code.partition(":")[0]


@pytest.mark.parametrize("name", TASKS)
def test_the_version_of_a_task_s_code_is_raised_when_that_changes_what_a_run_holds(name):
    task = TASKS[name]
    kind, _ = MODELS[name]
    found = digest(*task.decides(place(kind))[1])[:10]
    assert found == task.pinned, (
        f"what decides the runs of {name} has changed: if weights, or what is mined, change, raise `version` in "
        f"pipeline/tasks; then pin {found}"
    )


@pytest.mark.parametrize("name", TASKS)
def test_all_that_a_record_names_is_there(name):
    for field in CODE:
        if named := getattr(TASKS[name], field):
            assert callable(plugins.load(named)), field


@pytest.mark.parametrize("name", TASKS)
def test_the_headline_of_a_task_is_a_column_of_its_tables_and_no_two_columns_are_one_figure(name):
    columns = TASKS[name].code("columns")
    assert all(isinstance(column, Column) for column in columns)
    names = [column.name for column in columns]
    assert TASKS[name].headline in names and len(set(names)) == len(names)


def test_a_figure_of_both_kinds_of_segmentation_is_a_column_of_both():
    segmentation, zeroshot = (TASKS[name].code("columns") for name in ("segmentation", "zeroshot"))
    # Of F1 the zero-shot tables have the strictest threshold alone.
    assert {column.name for column in set(segmentation) - set(zeroshot)} == {"f1@10", "f1@25"}


@pytest.mark.parametrize("name", TASKS)
def test_a_headline_that_is_explained_has_a_name_for_people(name):
    assert TASKS[name].headline in METRICS


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_s_key_depends_on_no_other_head_and_on_nothing_that_is_asked_after_training(kind):
    heads, others = TASKS[HEADS[kind].task].decides(place(kind))
    assert {module.split(".")[2] for module in heads} == {place(kind).split(".")[2]}
    assert not any(module.endswith(".config") for module in heads)
    trained = {module for module in others if module.startswith("pipeline.training")}
    assert trained == set(others) - {"pipeline.accelerator", "pipeline.runs", "pipeline.evaluation.negatives"}
    steps = {task.step.partition(":")[0] for task in TASKS.values() if task.step}
    assert len(trained & steps) == (1 if TASKS[HEADS[kind].task].trains else 0)


def test_negalign_which_trains_nothing_rests_on_no_training():
    _, others = TASKS["ood"].decides(place("negalign"))
    # The last joins what is read.
    assert others == ["pipeline.evaluation.negatives", "pipeline.runs", "pipeline.training.dataset"]


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A function: edits of files of a copy of the package -> the heads whose keys moved."""
    copy = tmp_path_factory.mktemp("house")
    package = Path(pipeline.__file__).parent
    shutil.copytree(package, copy / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("weights", "configs", "studies"):
        (copy / name).symlink_to(ROOT / name)
    params = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("\nheads:\n", f"\nheads:\n{PROBE}\n")
    (copy / "params.yaml").write_text(params, encoding="utf-8")
    said = (
        "from pipeline.plan import Plan; from pipeline.config import load_params, feature_key; "
        "p = load_params('params.yaml'); "
        "print(*(f'{run.head} {run.key}' for run in Plan(p).results.values()), sep='\\n'); "
        "print(*(f'{name} {feature_key(p, name)}' for name in p.features), sep='\\n')"
    )

    def keys() -> dict[str, str]:
        shown = subprocess.run(
            [sys.executable, "-c", said], cwd=copy, env={"PYTHONPATH": str(copy), "PATH": "/usr/bin"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return dict(line.split() for line in shown.stdout.splitlines())

    before = keys()
    assert before.keys() >= set(KINDS)

    def edited(edit, *paths: Path) -> set[str]:
        kept = {path: path.read_text(encoding="utf-8") for path in paths}
        for path, text in kept.items():
            path.write_text(edit(text), encoding="utf-8")
        after = keys()
        for path, text in kept.items():
            path.write_text(text, encoding="utf-8")
        return {name for name in before if before[name] != after[name]}

    return lambda edit, *names: edited(edit, *([copy / "pipeline" / name for name in names] or copy.rglob("*.py")))


def test_a_comment_and_a_docstring_in_every_file_of_the_package_move_no_key(moved):
    def noted(text: str) -> str:
        said = text.replace('"""', '"""Said otherwise. ', 1) if text.startswith('"""') else text
        return f"# A remark.\n{said}\n# End.\n"

    assert moved(noted) == set()


def test_an_edit_moves_the_keys_of_those_whose_runs_it_decides_alone(moved):
    def edit(text: str) -> str:
        return f"{text}\nADDED = 1\n"

    assert moved(edit, "heads/gasm_cast/layers.py") == {"gasm_cast"}
    assert moved(edit, "heads/fact/branches.py") == {"fact", "fact_clip"}
    assert moved(edit, "heads/negalign/words.py") == {"negalign"}
    assert moved(edit, "heads/probe/attentive.py") == {"probe"}
    assert moved(edit, "training/classification.py") == {"gasm_cast"}
    assert moved(edit, "training/probed.py") == {"probe"}
    assert moved(edit, "training/trainer.py") == {"gasm_cast", "fact", "fact_clip", "clip_align", "probe"}
    after = (
        "evaluation/classification.py",
        "evaluation/probes.py",
        "reports/page/results.py",
        "prediction/videos.py",
        "cli/heads.py",
        "store/reader.py",
    )
    assert moved(edit, *after, "heads/gasm_cast/config.py", "heads/gasm_cast/attention.py") == set()


def test_a_name_is_no_part_of_a_key_and_two_heads_of_a_kind_stand_side_by_side(monkeypatch):
    monkeypatch.chdir(ROOT)
    document = read_documents([ROOT / "params.yaml"]).document
    for section in ("ablations", "claims"):
        document.pop(section, None)
    own = document["heads"]["gasm_cast"]
    document["heads"]["again"] = {**own, "result": "again"}
    document["heads"]["slower"] = {**own, "result": "slower", "lr": own["lr"] / 2}
    plan = Plan(parse_params(document))
    keys = {run.head: run.key for run in plan.results.values()}
    assert keys["again"] == keys["gasm_cast"] != keys["slower"]
    assert {plan.results[name].folder for name in ("again", "slower")} == {
        Path("runs/again") / keys["again"],
        Path("runs/slower") / keys["slower"],
    }


def test_heads_of_before_they_had_names_load_and_say_the_line_to_add(monkeypatch):
    monkeypatch.chdir(ROOT)
    document = read_documents([ROOT / "params.yaml"]).document
    for head in document["heads"].values():
        del head["kind"]
    with pytest.warns(FutureWarning, match=r"heads\.fact_clip has no kind .*write kind: fact_clip below it"):
        old = parse_params(document)
    assert old == load_params("params.yaml")
