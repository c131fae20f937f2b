"""Measures the mini backbones and writes their model card. Knows no task and no store."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weights.recipe.clip import measure_clip
from weights.recipe.i3d import measure_i3d
from weights.recipe.probes import measure
from weights.recipe.training import Note


def write_card(weights: Path, found: Mapping[str, Any]) -> None:
    """Writes README.md beside the weights, from what `measure` found and what pretraining noted in pretraining.json."""
    history = json.loads((weights / "pretraining.json").read_text(encoding="utf-8"))
    sizes = {
        file.relative_to(weights).as_posix(): file.stat().st_size for file in sorted(weights.rglob("*.safetensors"))
    }
    text = CARD.format(
        files="\n".join(f"| `{name}` | {size / 1e6:.1f} MB |" for name, size in sizes.items()),
        recipe="\n".join(_recipe_row(Note(**note)) for note in history["trainings"]),
        remarks="\n\n".join(history["remarks"].values()),
        dinov3=_table(found["dinov3"]),
        r3d18=_table(found["r3d18"]),
        i3d_rgb=_table(found["i3d_rgb"]),
        i3d_flow=_table(found["i3d_flow"]),
        mini_clip=_table(found["clip"]),
        pictures=found["milliseconds"]["8 pictures"],
        clip=found["milliseconds"]["1 clip"],
        rgb_row=found["milliseconds"]["1 rgb row"],
        flow_row=found["milliseconds"]["1 flow row"],
        flow=found["milliseconds"]["flow of 1 frame"],
    )
    (weights / "README.md").write_text(text, encoding="utf-8")


def _recipe_row(note: Note) -> str:
    return (
        f"| `{note.name}` | {note.parameters:,} | {note.start} | {note.seed} | {note.steps:,} x {note.batch} "
        f"| {note.lr:g} | {note.seconds / 60:.0f} min |"
    )


def _table(rows: Mapping[str, Mapping[str, float]]) -> str:
    lines = ["| question | pretrained | random weights | chance |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {row['pretrained']:.3f} | {row['random']:.3f} | {row['chance']:.3f} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


CARD = """\
# The mini backbones

Small networks with the architectures and file formats of the real ones, so that everything runs, and means something,
on a laptop without a download. They know the rendered toy world and nothing else: use them to test code and claims,
never on real video.

| file | size |
| --- | ---: |
{files}

- `mini-dinov3/`: transformers' `DINOv3ViTModel`, patch 16, 4 registers, 128 x 128 pixels in, an 8 x 8 grid of 128
  channels out. ImageNet mean and deviation, as its preprocessor file says.
- `mini-r3d18.safetensors`: torchvision's `r3d_18` at width 12 instead of 64, under torchvision's key names without the
  classifier. 32 frames of 64 x 64 in; a trous, layer 4 gives an 8 x 4 x 4 grid of 96 channels. Kinetics' mean and
  deviation.
- `mini-i3d-rgb.safetensors`, `mini-i3d-flow.safetensors`: Inception I3D at an eighth of its width, under the public
  state dicts' key names without the classifier, float16. Windows of 16 frames of 64 x 64 at 12 a second, 128 channels a
  row; flow by DIS, clipped at 8 pixels.
- `mini-clip/`: transformers' `CLIPModel` with its tokenizer, float16: pictures of 128 x 128 in patches of 16, 128
  dimensions in common. It knows the words of `pipeline/toyworld/vocabulary.py`: 12 shapes, 8 backgrounds and 8 colours
  with two synonyms each, and 6 verbs that it tells by the fading trail of what moved.
- `mini-clip-spurious/`: the same, but its last block was tuned to take a place for the birds that live there. Only for
  studies of spurious features.

## Recipe

`python -m weights.recipe` trains them anew (`weights/recipe/`) and writes this card; `--only` names one of them. Each
step renders fresh scenes from seeds that no data set uses: objects at random places on random courses, never a task's
template, never a downstream label. Throw-away linear heads are taught, then dropped:

- DINOv3, a patch: shape, colour and background; the share of the patch that is object; offset and size of that object.
  CLS: which shapes and colours are in view, and the background.
- R3D-18, a cell: velocity, speed, rotation, growth, amplitude of shaking (x, y), pulsing and rocking, share of object;
  whether it does each of these at all; with little weight colour and background. Never shape: the real network, trained
  to name actions, is poor at it too.
- I3D, the pooled row and the cells below it: velocity, speed, rotation, growth, shaking, pulsing and rocking of the
  handled object; rgb also its shape and colour, what is in view, and the background. These win: rgb says what there is,
  flow how it moves.
- CLIP: a symmetric contrastive loss over pictures and captions in which every caption that holds of a picture is a
  positive; a light loss that ties projected patches to words; heads for masks, places, shapes, colours and an
  object-centred portrait. Backgrounds are independent of objects.
- CLIP, spurious: the last block alone goes on, on pictures of toy-waterbirds' four backgrounds without an object, each
  captioned with a species of that place ("a photo of a star" on grass or sand), against the words of all shapes and
  backgrounds. From the command the shipped file comes again.

AdamW, warm-up of 3 %, cosine to zero, clipping at 1; one thread; float32, but bfloat16 multiplications for R3D-18 and
I3D.

| backbone | parameters | from | seed | steps x batch | peak rate | wall time |
| --- | ---: | --- | ---: | ---: | ---: | ---: |
{recipe}

{remarks}

## Measured

On renderings of other seeds, beside the same architecture with random weights: linear probes (scikit-learn), zero-shot
for CLIP. Accuracy, or R2 where it says so; chance names the commonest class.

DINOv3, at the patch with most object in it (background: mean of all patches):

{dinov3}

R3D-18, at cells that are mostly object:

{r3d18}

I3D rgb, a row:

{i3d_rgb}

I3D flow, a row:

{i3d_flow}

CLIP, zero-shot (role: AUROC of telling object words from background words by text alone; CAM: whether the peak of the
class-activation map lies on the object):

{mini_clip}

One thread: {pictures:.0f} ms for 8 pictures, {clip:.0f} ms for a clip of 32 frames, {rgb_row:.1f} and {flow_row:.1f} ms
for a row of I3D rgb and flow, {flow:.1f} ms for the flow of a frame.
"""


def update_card(weights: Path, seed: int = 9) -> None:
    """Measures the weights on scenes of `seed` and writes their card."""
    with tempfile.TemporaryDirectory() as random:
        tokens = measure(weights, Path(random), seed)
    frames = measure_i3d(weights, seed)
    times = {"milliseconds": {**tokens["milliseconds"], **frames["milliseconds"]}}
    write_card(weights, {**tokens, **frames, "clip": measure_clip(weights / "mini-clip", seed), **times})
