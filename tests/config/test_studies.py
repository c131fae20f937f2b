"""Studies: ablations and claims in files of their own belong to the params that name their folder, and to no others."""

import json
import re
from pathlib import Path

import pytest
import yaml

from pipeline.config import ParamsError, load_params, parse_written, read_documents, read_laid

ROOT = Path(__file__).parents[2]
ROWS = {"reference": {}, "wide": {"model.width": 64}}
TABLE = {"head": "gasm_cast", "seeds": [0], "variants": ROWS}
CLAIM = {"says": "so", "of": {"ablation": "one", "variant": "wide", "figure": "top1"}, "over": 0.5}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """Params that name the folder `studies`, which is empty; and a head."""
    monkeypatch.chdir(tmp_path)
    document = json.loads(load_params(ROOT / "params.yaml").part(head="gasm_cast"))
    Path("params.yaml").write_text(yaml.safe_dump(document | {"studies": "studies"}), encoding="utf-8")
    Path("studies").mkdir()
    return tmp_path


def study(file: str, **sections) -> None:
    Path(file).write_text(yaml.safe_dump(sections), encoding="utf-8")


def named() -> dict:
    """params.yaml as plain values."""
    return yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))


def refused(source="params.yaml") -> str:
    with pytest.raises(ParamsError) as caught:
        load_params(source)
    return str(caught.value)


def test_studies_are_read_as_if_they_stood_in_the_params(project):
    study("studies/b.yaml", ablations={"one": TABLE})
    study("studies/a.yaml", claims={"wide_is_better": CLAIM})
    params = load_params("params.yaml")
    assert list(params.ablations) == ["one"] and list(params.claims) == ["wide_is_better"]
    document = named()
    del document["studies"]
    study("whole.yaml", **document, ablations={"one": TABLE}, claims={"wide_is_better": CLAIM})
    assert load_params("whole.yaml") == params == parse_written(read_laid(["params.yaml"]))


def test_a_file_that_names_no_studies_has_none_whatever_lies_beside_it(project):
    study("studies/a.yaml", ablations={"one": TABLE})
    document = named()
    del document["studies"]
    study("other.yaml", **document)
    assert not load_params("other.yaml").ablations


def test_the_folder_lies_beside_the_file_that_names_it_wherever_one_is(project, tmp_path, monkeypatch):
    study("studies/a.yaml", ablations={"one": TABLE})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert list(load_params("../params.yaml").ablations) == ["one"]
    assert list(load_params(tmp_path / "params.yaml").ablations) == ["one"]


def test_no_shipped_set_for_real_data_picks_up_a_study_of_the_toy_world():
    for path in (ROOT / "configs").glob("*.yaml"):
        assert read_documents([path]).files == (str(path),)
    toy = read_documents([ROOT / "params.yaml"])
    assert {Path(file).parent.name for file in toy.files[1:]} == {"studies"} and toy.document["ablations"]


def test_a_name_that_two_files_give_is_refused_with_both(project):
    study("studies/a.yaml", ablations={"one": TABLE})
    study("studies/b.yaml", ablations={"one": TABLE})
    assert refused() == "ablations.one is in studies/a.yaml and in studies/b.yaml; rename one"
    Path("studies/b.yaml").unlink()
    study("params.yaml", **named(), ablations={"one": TABLE})
    assert refused() == "ablations.one is in params.yaml and in studies/a.yaml; rename one"


@pytest.mark.parametrize(
    ("ablations", "claims", "said"),
    [
        ({"one": TABLE | {"seeds": ["x"]}}, {}, "ablations.one.seeds.0: Input should be a valid integer, got 'x'"),
        ({"one": TABLE | {"head": "gasm"}}, {}, "ablations.one.head names 'gasm', which is not in heads"),
        (
            {"one": TABLE | {"variants": {"a": {"model.fusoin": "x"}}}},
            {},
            "ablations.one.variants.a: model.fusoin: unknown key",
        ),
        ({"one": TABLE | {"typo": 1}}, {}, "ablations.one.typo: unknown key"),
        ({}, {"c": CLAIM}, "claims.c names 'one', which is not in ablations"),
        ({"one": TABLE}, {"c": CLAIM | {"over": "x"}}, "claims.c.over"),
    ],
)
def test_what_is_wrong_with_a_study_is_said_with_its_file(project, ablations, claims, said):
    study("studies/mine.yaml", ablations=ablations, claims=claims)
    message = refused()
    assert message.startswith("params.yaml cannot be used:\n") and f"\n  studies/mine.yaml: {said}" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("heads: {}", "studies/mine.yaml: unknown key heads; a study holds ablations, claims, searches"),
        ("ablations: [1]", "studies/mine.yaml: ablations must be a mapping, got list"),
        ("", "studies/mine.yaml must hold a mapping at its top, got nothing"),
        ("a: {", "studies/mine.yaml is not valid YAML, line 1"),
    ],
)
def test_a_file_that_is_no_study_is_refused(project, text, said):
    Path("studies/mine.yaml").write_text(text, encoding="utf-8")
    assert refused().startswith(said)


def test_a_folder_that_is_not_there_is_refused_with_the_remedy(project):
    Path("studies").rmdir()
    assert (
        refused() == "params.yaml: studies names the folder studies, which does not exist; make it, or remove the line"
    )
    Path("params.yaml").write_text("studies: 3", encoding="utf-8")
    assert refused() == "params.yaml: studies must be the path of a folder, got 3"


def test_an_editor_s_hidden_file_is_no_study(project):
    Path("studies/.#one.yaml").symlink_to("somebody@elsewhere.1")  # a lock, as Emacs makes them
    Path("studies/._one.yaml").write_bytes(b"\x00\x05\x16\x07")
    study("studies/one.yaml", ablations={"one": TABLE})
    assert set(load_params("params.yaml").ablations) == {"one"}


def test_a_folder_that_cannot_be_read_is_refused_by_its_name(project, monkeypatch):
    def denied(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("pipeline.config.documents.os.listdir", denied)
    assert "params.yaml: studies names the folder studies, which cannot be read: Permission denied" in refused()


def test_config_and_a_second_file_are_laid_over_studies(project):
    study("studies/a.yaml", ablations={"one": TABLE})
    params = parse_written(read_laid(["params.yaml"], ["ablations={one: {seeds: [4, 5]}}"]))
    assert params.ablations["one"].seeds == [4, 5] and params.ablations["one"].variants == ROWS
    study("more.yaml", ablations={"one": {"seeds": [6]}, "two": TABLE})
    params = parse_written(read_laid(["params.yaml", "more.yaml"]))
    assert params.ablations["one"].seeds == [6] and list(params.ablations) == ["one", "two"]


def test_it_is_known_which_files_were_read_and_where_a_study_stands(project):
    study("studies/a.yaml", ablations={"one": TABLE})
    study("studies/b.yml", claims={"c": CLAIM})
    Path("studies/notes.md").write_text("no study", encoding="utf-8")
    written = read_documents(["params.yaml"])
    assert written.files == ("params.yaml", "studies/a.yaml", "studies/b.yml")
    assert written.origins == {"ablations.one": "studies/a.yaml", "claims.c": "studies/b.yml"}
    assert parse_written(written) == load_params("params.yaml")


def test_the_study_that_the_readme_shows_can_be_read(project):
    shown = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    Path("studies/shown.yaml").write_text(shown, encoding="utf-8")
    params = load_params("params.yaml")
    assert list(params.ablations) == ["my_ablation"] and list(params.claims) == ["two_layers_help"]
