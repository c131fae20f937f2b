"""Claims about heads as files: they answer as the run, carry where they come from, and are whole or not there."""

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.digests import file_digest
from tests.evaluation.test_probes import finished, run_of
from tests.later import Later, train
from tests.training.learnable import make

torch.set_num_threads(1)
deployment, evaluation = Later("pipeline.deployment"), Later("pipeline.evaluation")
formats, exporting = Later("pipeline.deployment.formats"), Later("pipeline.deployment.exporting")


ONNX = pytest.param(
    "onnx", marks=pytest.mark.skipif(find_spec("onnxruntime") is None, reason="without the extra `export`")
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"), train=10, validation=5)


@pytest.fixture(scope="module")
def gasm_cast(made, tmp_path_factory):
    run = made.run(tmp_path_factory.mktemp("gasm_cast") / "run", epochs=1)
    train(run, progress=lambda line: None)
    evaluation.evaluate(run, progress=lambda line: None)
    return run


@pytest.fixture(scope="module")
def linear(made, tmp_path_factory):
    run = run_of(made, tmp_path_factory.mktemp("linear") / "run", roles=("semantic", "motion"))
    finished(run)
    return run


def answers(path, form, run):
    """What a file says of the evaluated samples, all at once."""
    call, record = deployment.FORMATS[form].load(path)
    graph = run.task.code("graph")(run)
    inputs = graph.rows(range(len(run.samples.parts["evaluated"])))
    return call([of.numpy() for of in inputs]), record


@pytest.mark.parametrize("form", ["torch", ONNX])
def test_a_file_says_of_each_sample_what_the_run_predicted(gasm_cast, tmp_path, form):
    out = tmp_path / "deployed" / "head"
    found = deployment.export_head(gasm_cast, form, out)
    assert found.samples == 20 and found.from_head < 1e-5 and found.from_predictions < 1e-5
    logits, record = answers(out, form, gasm_cast)
    names = np.array(record["classes"])[logits.argmax(axis=1)]
    assert names.tolist() == gasm_cast.predictions["prediction"].tolist()
    assert [path.name for path in out.parent.iterdir()] == ["head"]

    # It carries classes, inputs, features, keys and digests.
    assert record["classes"] == gasm_cast.record["classes"] and record["gives"] == "logits"
    assert record["inputs"]["semantic"] == {"dtype": "float32", "shape": ["batch", 4, 16, 16]}
    assert record["inputs"]["times"]["shape"] == ["batch", 4]
    assert (record["run"], record["evaluation"]) == (gasm_cast.key, gasm_cast.evaluation)
    assert record["weights"] == {"weights.safetensors": file_digest(gasm_cast.folder / "weights.safetensors")}
    assert record["features"]["semantic"]["key"] == gasm_cast.samples.streams["semantic"].store.key


@pytest.mark.slow
def test_compiled_it_says_the_same(linear, tmp_path):
    found = deployment.export_head(linear, "aoti", tmp_path / "head.pt2")
    assert found.samples == 20 and max(found.from_head, found.from_predictions) < 1e-5
    logits, record = answers(tmp_path / "head.pt2", "aoti", linear)
    names = np.array(record["classes"])[logits.argmax(axis=1)]
    assert names.tolist() == linear.predictions["prediction"].tolist()


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="without the extra `export`")
@pytest.mark.parametrize(("probe", "changes"), [("attentive", {"attention_heads": 4}), ("knn", {"k": 3})])
def test_probes_of_tokens_and_neighbours_too(made, tmp_path, probe, changes):
    run = run_of(made, tmp_path / "run", probe=probe, epochs=1, **changes)
    finished(run)
    found = deployment.export_head(run, "onnx", tmp_path / "head.onnx")
    assert max(found.from_head, found.from_predictions) < 1e-5


def test_a_file_that_answers_otherwise_is_refused_and_the_one_before_stays(linear, tmp_path, monkeypatch):
    out = tmp_path / "head.pt2"
    deployment.export_head(linear, "torch", out)
    before = out.read_bytes()
    chosen = deployment.FORMATS["torch"]

    def load(path):
        call, record = chosen.load(path)
        return lambda inputs: call(inputs) * np.float32(1.001), record

    monkeypatch.setitem(deployment.FORMATS, "torch", chosen._replace(load=load))
    with pytest.raises(deployment.DeploymentError, match=r"differ by .* from the head, of which 1e-05 is allowed"):
        deployment.export_head(linear, "torch", out)
    monkeypatch.setitem(
        deployment.FORMATS, "torch", chosen._replace(load=lambda path: (lambda of: load(path)[0](of) * math.nan, {}))
    )
    with pytest.raises(deployment.DeploymentError, match="differ by nan"):
        deployment.export_head(linear, "torch", out)
    assert out.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["head.pt2"]


def test_what_cannot_be_written_is_one_line_with_the_remedy(linear, tmp_path, monkeypatch):
    with pytest.raises(deployment.DeploymentError, match="--format tflite is none of torch, onnx, aoti"):
        deployment.export_head(linear, "tflite", tmp_path / "head")
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(
        deployment.DeploymentError, match=r"needs onnx, onnxscript, onnxruntime; .*permafrost\[export\]"
    ):
        deployment.export_head(linear, "onnx", tmp_path / "head")
    assert not [*tmp_path.iterdir()]


def test_a_forward_that_depends_on_its_batch_says_what_to_change(linear, tmp_path, monkeypatch):
    logits = type(linear.model).logits
    monkeypatch.setattr(type(linear.model), "logits", lambda self, batch: logits(self, batch) + len(batch["motion"]))
    with pytest.raises(deployment.DeploymentError, match=r"depends on the batch at hand .*take a size as tensor.shape"):
        deployment.export_head(linear, "torch", tmp_path / "head")
    assert not [*tmp_path.iterdir()]


def test_attention_by_its_formula_is_that_of_torch():
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, 3, 5, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    bias = torch.randn(3, 5, 5, generator=generator, dtype=torch.float64)
    keep = torch.rand(2, 1, 5, 5, generator=generator) > 0.3
    keep[..., 0] = True
    for mask in (None, bias, keep):
        for scale in (None, 0.5):
            wanted = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
            torch.testing.assert_close(formats.attention(query, key, value, attn_mask=mask, scale=scale), wanted)
    with pytest.raises(formats.FormatError, match="use --format torch"):
        formats.attention(query, key, value, is_causal=True)
