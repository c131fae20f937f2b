"""Claims about the page: it says what results say, what is missing, and lets nothing out and nothing in."""

import base64
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.digests import Damaged, read_json, write_json
from pipeline.reports import publish
from pipeline.reports.ood import publish_ood
from pipeline.reports.page import write_page
from pipeline.reports.page.blocks import picture
from tests.reports.made_up import HEADS, MadeUp

HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'


class Outline(HTMLParser):
    """What a browser would make of the page: headings in order, ids, links, pictures, scripts' texts, cells' texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.pictures: list[dict] = []
        self.tags: list[str] = []
        self.said, self.scripts, self._in = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self._in.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        self.pictures += [found] if tag == "img" else []
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []

    def handle_endtag(self, tag):
        self._in = self._in[: len(self._in) - self._in[::-1].index(tag) - 1] if tag in self._in else self._in

    def handle_data(self, data):
        (self.scripts if self._in and self._in[-1] in ("script", "style") else self.said).append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.said))


def page(project: MadeUp, **options) -> str:
    out = project.root / "results/report.html"
    write_page(project.plan, out, project.root, **options)
    return out.read_text()


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> tuple[MadeUp, str]:
    project = MadeUp(tmp_path_factory.mktemp("everything")).finish(*HEADS).explain("ssv2_top1").study().log()
    project.draw(
        "ssv2_top1/explanation/pictures/attention",
        "waterbirds_ood/explanation/pictures/overlays",
        "assembly_segmentation/report/pictures/worst",
    )
    return project, page(project)


def test_every_heads_headline_is_there_with_its_interval_and_counts(everything):
    project, text = everything
    said = Outline(text).text
    result = json.loads((project.root / "results/ssv2_top1.json").read_text())
    low, high = (100 * edge for edge in result["ci95"])
    row = f"ssv2_top1 top-1 {100 * result['top1']:.1f} % {low:.1f} to {high:.1f} 20.0 % gasm_cast 60 1 2 trained"
    assert row in said
    for name in project.plan.results:
        assert f"{name}: " in said
    assert "5 of 5 results are finished" in said and "AUROC, mean of the sets" in said and "unknown_other" in said


def test_claims_say_whether_they_hold_and_why_not(everything):
    said = Outline(everything[1]).text
    assert "1 of 3 hold, 1 fail, 1 are undecided." in said
    assert "one is above the other holds" in said and said.count("Why not: ") == 2
    assert "the other is above the one Why not: it is not. fails" in said
    assert "Why not: more seeds would tell. undecided" in said and "0.1 ± 0.01 0.05 to 0.15 3 of 3 192" in said


def test_decoding_shows_its_gain_beside_the_published_way_and_the_costs_that_were_tried(everything):
    said = Outline(everything[1]).text
    assert "the cost of a change of class is 2, in frames of a sure score" in said
    assert "each frame by itself, as published 60.5 17.2 33.0" in said
    assert "cost frame accuracy edit F1@50 0 61.0 52.0 43.0 2 61.0 54.0 43.0" in said


def test_provenance_names_what_a_result_rests_on(everything):
    said = Outline(everything[1]).text
    for part in (
        "runs/gasm_cast/",
        "0123456789",
        "ffffffffffff",
        "cccccccccccccccc",
        "fit 1.5 min",
        "cut off",
        "lr: 0.016",
    ):
        assert part in said, part


def test_the_best_of_a_column_of_an_ablation_is_bold_and_a_grid_is_a_table_that_scrolls(everything):
    project, text = everything
    table = json.loads((project.root / "results/ablations/gasm_cast_streams.json").read_text())["variants"]
    best = max(table.values(), key=lambda of: of["mean"]["top1"])
    worst = min(table.values(), key=lambda of: of["mean"]["top1"])
    assert f"<strong>{best['mean']['top1']:.3f} ± {best['sd']['top1']:.3f}</strong>" in text
    assert f"<strong>{worst['mean']['top1']:.3f} ± {worst['sd']['top1']:.3f}</strong>" not in text
    assert "108 variants, 1 seed each." in text


def test_a_table_begins_with_the_head_as_it_is(everything):
    table = everything[1].split('id="ablation-gasm_cast_design"')[1]
    assert re.search(r'<th scope="row"[^>]*>\s*(\w+)', table)[1] == "reference"


def test_data_quality_and_cost_are_told_with_units_and_the_pages_own_log_is_not(everything):
    said = Outline(everything[1]).text
    assert "58 train 50; validation 8, 2 missing" in said and "2 missing; 1 files the same across splits" in said
    assert "1 groups of classes with names alike" in said
    assert "123.0 MB" in said
    assert "extract 1 1.5 min 1.5 min 1.4 min 512 MB" in said
    assert "toy-ssv2 dinov3_patches-0123456789 2 58 1" in said
    assert "page 1 1.5 min" not in said


def test_a_set_without_a_video_that_is_ok_has_a_line_too(tmp_path):
    project = MadeUp(tmp_path).finish("gasm_cast").log()
    path = tmp_path / "features/toy-ssv2/quality.json"
    nothing = {"min": None, "median": None, "max": None}
    write_json(path, read_json(path, "") | {"duration": nothing | {"hours": 0.0}, "fps": nothing, "ok": 0})
    assert "validation 8, 2 missing 2 – – 123.0 MB" in Outline(page(project)).text


def test_headings_are_in_order_links_lead_somewhere_and_pictures_have_words(everything):
    found = Outline(everything[1])
    assert found.headings[0] == 1 and found.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(found.headings, found.headings[1:], strict=False))
    assert len(found.ids) == len(set(found.ids))
    assert {link.removeprefix("#") for link in found.links} <= set(found.ids)
    assert len(found.pictures) == 3 and all(picture["alt"] for picture in found.pictures)
    assert all(picture["src"].startswith("data:image/webp;base64,") for picture in found.pictures)


def test_the_page_asks_nobody_for_anything(everything):
    text = everything[1]
    assert "http:" not in text.replace("http-equiv", "") and "https:" not in text
    assert "default-src 'none'" in text and "unsafe-eval" not in text
    assert "src=" not in re.sub(r'src="data:[^"]*"', "", text)


def test_the_page_holds_no_library(everything):
    assert len(re.sub(r'src="data:[^"]*"', "", everything[1]).encode()) < 1_000_000


def rows(text: str, section: str) -> list[list[str]]:
    """The cells' texts of every row of a section's tables."""
    part = text.split(f'<section id="{section}"')[1].split("</section>")[0]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr>(.*?)</tr>", part, re.S)]
    return [[html.unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in row] for row in cells]


@pytest.fixture(scope="module")
def results(everything) -> dict[str, dict]:
    project = everything[0]
    return {name: read_json(project.root / f"results/{name}.json", "") for name in project.plan.results}


def test_a_result_without_a_mistake_has_no_empty_table(tmp_path, monkeypatch):
    project = MadeUp(tmp_path)
    monkeypatch.setattr(
        project, "_probabilities", lambda labels, classes: 0.9 * np.eye(classes)[labels] + 0.1 / classes
    )
    text = page(project.finish("gasm_cast"))
    assert "Surest mistakes" not in text and "confused most often" not in text
    assert "by what they were taken for" in text


def test_every_count_of_a_confusion_is_in_a_table(everything, results):
    of = results["ssv2_top1"]["confusion"]
    said = {row[0]: row for row in rows(everything[1], "ssv2_top1-confusion") if len(row) == 4 and "%" not in row[3]}
    for true, (name, counts) in enumerate(zip(of["classes"], of["matrix"], strict=True)):
        found = dict(entry.rsplit(" ", 1) for entry in said[name][3].split("; ") if entry)
        found[name] = said[name][2]
        assert {other: str(count) for other, count in zip(of["classes"], counts, strict=True) if count} == {
            other: count for other, count in found.items() if count != "0"
        }
        assert said[name][1] == str(sum(of["matrix"][true]))


def test_every_point_of_a_curve_is_in_a_table(everything, results):
    text, zeroshot, ood = everything[1], results["assembly_zeroshot"], results["waterbirds_ood"]
    said = rows(text, "assembly_zeroshot-unseen")[1:]
    assert [row[0] for row in said] == [f"{of:.4g}" for of in zeroshot["curve"]["gamma"]]
    assert [row[3] for row in said] == [f"{of:.1f}" for of in zeroshot["curve"]["harmonic"]]
    said = {row[0]: row[1:] for row in rows(text, "waterbirds_ood-over-lambda")[1:]}
    sweeps = [*(of["lambda_sweep"] for of in ood["sets"].values()), ood["lambda_sweep"]]
    assert said == {
        lam: [f"{sweep[lam][key]:.1f}" for key in ("auroc", "fpr95") for sweep in sweeps] for lam in sweeps[0]
    }
    assert ["12", "0.25", "0.2667", "93.33"] in rows(text, "ssv2_top1-training")


def test_bins_of_scores_and_of_confidence_are_in_tables(everything, results):
    bins = [row for row in rows(everything[1], "waterbirds_ood-scores") if row[0] != "score"]
    assert len(bins) == 3 * 40
    totals = np.array([[float(of) for of in row[1:]] for row in bins[:40]]).sum(axis=0)
    assert np.allclose(totals, 100, atol=2)
    found = rows(everything[1], "ssv2_top1-reliability")[1:]
    assert [int(row[1]) for row in found] == [of["n"] for of in results["ssv2_top1"]["calibration"] if of["n"]]


def test_another_data_set_has_a_row_with_its_worst_class(everything, results):
    of = results["ssv2_top1"]["elsewhere"]["reversed_video"]
    (row,) = rows(everything[1], "ssv2_top1-elsewhere")[1:]
    assert row[:4] == ["toy-ssv2-reversed", "reversed_video", "validation", str(of["samples"]["evaluated"])]
    least = min(of["per_class"], key=lambda row: row["recall"])
    assert row[4] == f"{100 * of['top1']:.1f}" and row[6] == least["class"]
    assert row[7] == f"{100 * least['recall']:.1f} of {least['n']}"


def test_what_a_head_loses_without_an_input_is_in_a_table(everything):
    assert ["semantic", "semantic tokens", "21.30 ± 1.50", "21.30 ± 1.50"] in rows(
        everything[1], "ssv2_top1-importance"
    )


def test_a_class_s_bar_is_as_long_as_its_recall_and_its_line_as_its_interval(everything, results):
    part = everything[1].split('id="ssv2_top1-classes"')[1].split("</section>")[0]
    of = min(results["ssv2_top1"]["per_class"], key=lambda row: (row["recall"], row["class"]))
    low, high = (100 * edge for edge in of["recall_ci95"])
    assert re.search(r"<svg.*?</svg>", part, re.S)[0].endswith(
        f'<rect x="0.0" y="1.5" width="{100 * of["recall"]:.1f}" height="7"/><path d="M{low:.1f} 5H{high:.1f}"/></svg>'
    )


def test_every_picture_is_on_the_page_once_as_its_file(tmp_path):
    """Nothing is drawn again: what reports and explanations draw is what the page shows, beside its numbers."""
    project = MadeUp(tmp_path).finish(*HEADS).explain("ssv2_top1")
    for name, run in project.plan.results.items():
        if run.config.task in ("classification", "ood"):
            draw = publish if run.config.task == "classification" else publish_ood
            draw(tmp_path / run.evaluation_folder, tmp_path / f"results/{name}.json")
    project.draw("ssv2_top1/explanation/pictures/features", "ssv2_top1/explanation/pictures/my_own")
    text = page(project)
    pictures = [path.stem for path in tmp_path.glob("results/*/*/pictures/*.png")]
    assert sorted(pictures) == sorted(
        ["confusion", "reliability", "training", "features", "my_own", "scores", "lambda"]
    )
    alternatives = [picture["alt"] for picture in Outline(text).pictures]
    assert len(alternatives) == len(set(alternatives)) == len(pictures)
    for section, alternative in {
        "ssv2_top1-confusion": "Confusion matrix",
        "ssv2_top1-features": "The feature space",
        "ssv2_top1-pictures": "my own of ssv2_top1",
        "waterbirds_ood-over-lambda": "AUROC and FPR95",
    }.items():
        assert f'alt="{alternative}' in text.split(f'<section id="{section}"')[1].split("</section>")[0]


def test_a_drawing_keeps_every_pixel_and_photographs_become_small(tmp_path):
    drawn, photographed = (
        np.full((600, 1700, 3), 255, np.uint8),
        np.random.default_rng(0).integers(0, 255, (90, 170, 3)),
    )
    drawn[100:110, ::7] = 0
    Image.fromarray(drawn).save(tmp_path / "drawn.png", dpi=(120, 120))
    Image.fromarray(photographed.astype(np.uint8)).resize((1700, 900)).save(tmp_path / "photographed.png")
    found = picture(tmp_path / "drawn.png", "", "")
    shown = Image.open(io.BytesIO(base64.b64decode(found.source.partition(",")[2])))
    assert np.array_equal(np.asarray(shown.convert("RGB")), drawn)
    assert found.natural == 1360, "at 120 dots an inch, of which a page has 96"
    found = picture(tmp_path / "photographed.png", "", "")
    assert (found.width, found.height) == (1500, 794)
    assert len(found.source) < (tmp_path / "photographed.png").stat().st_size / 4


def test_a_report_and_an_explanation_that_are_gone_say_how_they_are_made_and_one_without_pictures_does_not(tmp_path):
    project = MadeUp(tmp_path).finish("gasm_cast")
    said = Outline(page(project)).text
    assert "snakemake results/ssv2_top1/report --cores all" in said
    assert "snakemake results/ssv2_top1/explanation --cores all" in said
    for folder in ("report", "explanation"):
        (tmp_path / f"results/ssv2_top1/{folder}/pictures").mkdir(parents=True)
    said = Outline(page(project)).text
    assert "results/ssv2_top1/report" not in said and "results/ssv2_top1/explanation" not in said


def test_data_sets_are_told_in_the_order_of_params_whatever_a_process_hashes(everything):
    project, text = everything
    missing = re.findall(r"the look at ([\w-]+)", Outline(text).text)
    assert len(missing) > 5 and missing == [name for name in project.plan.params.datasets if name in missing]


def test_equal_results_give_equal_bytes(everything):
    project, text = everything
    assert page(project) == text


def test_hostile_names_are_text_everywhere(tmp_path):
    project = MadeUp(tmp_path, name=HOSTILE).finish(*HEADS).explain("ssv2_top1")
    text = page(project)
    harmless = Outline(page(MadeUp(tmp_path / "other").finish(*HEADS).explain("ssv2_top1")))
    found = Outline(text)
    assert found.tags.count("script") == harmless.tags.count("script")
    assert found.tags.count("img") == harmless.tags.count("img")
    assert HOSTILE in found.text
    for script in found.scripts:
        assert "<script>alert" not in script and "<img src=x" not in script


def test_random_weights_are_flagged_at_the_top_and_in_the_row(tmp_path):
    found = Outline(page(MadeUp(tmp_path, weights="random").finish("gasm_cast")))
    assert "Random weights: ssv2_top1. These backbones learned nothing" in found.text.split("Summary")[-2]
    assert Outline(page(MadeUp(tmp_path / "b").finish("gasm_cast"))).text.count("Random weights") == 0


def test_a_result_that_auto_had_computed_on_the_cpu_is_flagged_with_the_reason(tmp_path):
    project = MadeUp(tmp_path).finish("gasm_cast")
    assert "On the CPU" not in Outline(page(project)).text
    path = tmp_path / "results/ssv2_top1.json"
    document = read_json(path, "")
    document["provenance"]["cpu_because"] = "driver 470.1 is too old for CUDA 13.2"
    write_json(path, document, ordered=True)
    assert "On the CPU: ssv2_top1. compute.device is auto" in Outline(page(project)).text
    assert "no GPU was found: driver 470.1 is too old for CUDA 13.2." in Outline(page(project)).text


def test_weights_that_come_with_the_project_are_flagged(tmp_path):
    project = MadeUp(tmp_path).finish("gasm_cast")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/mini-x.safetensors").write_bytes(b"weights")
    from pipeline.config import Weights, weights_digest

    digest = weights_digest(Weights(path=str(tmp_path / "weights/mini-x.safetensors")))
    path = tmp_path / "results/ssv2_top1.json"
    document = read_json(path, "")
    document["provenance"]["features"]["semantic"]["weights"] = {"weights": digest}
    write_json(path, document, ordered=True)
    assert "Mini weights: ssv2_top1." in Outline(page(project)).text


def test_with_one_head_the_others_are_missing_with_the_command_that_makes_them(tmp_path):
    text = page(MadeUp(tmp_path).finish("fact"), snakemake="snakemake --cores 4 --configfile configs/x.yaml")
    said = Outline(text).text
    assert "1 of 5 results are finished" in said
    wanted = "results/ssv2_top1.json", "results/ablations/fact_clip_targets.json", "results/claims.json"
    for target in (*wanted, "results/clinic_clip_align_ablations.json", "results/assembly_segmentation/explanation"):
        assert f"snakemake {target} --cores 4 --configfile configs/x.yaml" in said, target


def test_what_is_not_made_yet_is_folded_at_the_end_and_results_come_first(tmp_path):
    text = page(MadeUp(tmp_path).finish("gasm_cast"))
    sections = re.findall(r'<section id="([\w-]+)"', text)
    assert sections[:2] == ["summary", "ssv2_top1"] and sections[-1] == "missing"
    assert re.search(r"<details><summary>\d+ of what params ask for</summary>", text.split('id="missing"')[1])


def test_chance_stands_beside_accuracies_and_top_5_of_five_classes_is_not_told(everything):
    said = Outline(everything[1]).text
    assert "chance 20.0 %" in said and "top-5" not in said
    assert "cached tokens read backwards" in said


def test_with_nothing_finished_the_page_opens_and_says_how_to_begin(tmp_path):
    said = Outline(page(MadeUp(tmp_path))).text
    assert "0 of 5 results are finished" in said and "Nothing has run yet." in said
    assert "snakemake results/ssv2_top1.json --cores all" in said


def test_a_result_of_other_params_says_so_and_one_whose_run_is_gone_does_too(tmp_path):
    project = MadeUp(tmp_path).finish("gasm_cast")
    path = tmp_path / "results/ssv2_top1.json"
    document = read_json(path, "")
    document["provenance"]["params"]["model"]["fusion"] = "concat"
    write_json(path, document, ordered=True)
    said = Outline(page(project)).text
    assert "Made with other params than these now: model.fusion." in said
    assert "The evaluation that it was published from is gone" in said


def test_a_feature_of_several_environments_is_told_in_red_before_any_number(tmp_path):
    project = MadeUp(tmp_path).finish("gasm_cast")
    path = tmp_path / "results/ssv2_top1.json"
    document = read_json(path, "")
    cpu, cuda = ({"device": {"type": of, "model": of.upper(), "capability": "1"}} for of in ("cpu", "cuda"))
    document["provenance"]["environments"] = {"dinov3-0123456789": [cpu, cuda]}
    document["provenance"]["mixed"] = {"dinov3-0123456789": "device.type cpu or cuda"}
    document["provenance"]["trained"] = {"device": "NVIDIA H200"}
    write_json(path, document, ordered=True)
    text = page(project)
    note = text.index(
        "<strong>Mixed:</strong> dinov3-0123456789, on which ssv2_top1 rests, was computed by several environments"
    )
    assert 'class="warning"' in text[note - 40 : note] and note < text.index('id="summary"')
    said = Outline(text).text
    assert "device.type cpu or cuda" in said and "cpu CPU 1, cuda CUDA 1" in said and "NVIDIA H200" in said


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_file_is_one_error_that_names_it(tmp_path, text):
    project = MadeUp(tmp_path).finish("gasm_cast")
    (tmp_path / "results/ssv2_top1.json").write_text(text)
    with pytest.raises(Damaged, match=r"results/ssv2_top1\.json .* make it again"):
        page(project)
    assert not Path(tmp_path / "results/report.html").exists()
