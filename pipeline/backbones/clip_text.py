"""CLIP's text tower over texts x prompts, one unit vector a text. Knows no store and no dataset.

Shape suffixes: B texts, P prompts, S sequences (B * P), L tokens of a sequence, D width, E embedding width.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipeline.backbones.base import BackboneError, arithmetic, seeded, unit
from pipeline.backbones.checkpoints import Checkpoint, open_checkpoint
from pipeline.backbones.towers import build_clip
from pipeline.config import ClipTextFeature, Weights
from pipeline.transfers import sent

SEQUENCES = 256  # in a forward pass: bounds memory, whatever the number of prompts


class ClipText:
    """Frozen CLIP text tower.

    Texts are put into the prompts unchanged (`_` is for the word list to remove; CLIP's tokenizer lowers case).
    Sequences of equal length share a forward pass, so none is padded or truncated.
    """

    grid = None

    def __init__(self, feature: ClipTextFeature, device: torch.device):
        self.device, self.precision = device, feature.precision
        self.prompts, self.normalise_first = feature.prompts, feature.normalise_first
        model, self.tokenizer = _load(feature.weights, device)
        self.tower = model.text_model.requires_grad_(False).eval().to(device)
        self.projection = model.text_projection.requires_grad_(False).to(device)
        self.limit = self.tower.config.max_position_embeddings
        self.fields = {"text_embed": ((self.projection.out_features,), "float32")}

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Unit vectors of a batch of texts.

        With `normalise_first` the mean over the prompts is of unit vectors, otherwise of embeddings of any length, as
        NegLabel does; either mean is then normalised.

        Args:
            texts: B of them.

        Returns:
            text_embed (B, E), float32.

        Raises:
            BackboneError: in one of the prompts a text has more tokens than the tower reads, or characters that the
                tokenizer does not know.
        """
        with arithmetic(self.device, self.precision):
            embeds_BPE = self._embed(self._tokenise(texts)).unflatten(0, (-1, len(self.prompts)))
            if self.normalise_first:
                embeds_BPE = unit(embeds_BPE)
            return {"text_embed": unit(embeds_BPE.mean(dim=1))}

    def _tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of text 0 in each prompt, then of text 1, ..."""
        filled = [prompt.replace("{}", text) for text in texts for prompt in self.prompts]
        sequences = self.tokenizer(filled, verbose=False)["input_ids"]
        for row, (sentence, ids) in enumerate(zip(filled, sequences, strict=True)):
            text = texts[row // len(self.prompts)]
            if len(ids) > self.limit:
                raise BackboneError(
                    f"text {text!r} makes {sentence!r}, {len(ids)} tokens, and this CLIP reads {self.limit}; "
                    "shorten the text or the prompt"
                )
            if ids.count(self.tokenizer.eos_token_id) != 1:  # CLIP's unknown token is its end of text, which pools
                raise BackboneError(
                    f"text {text!r} makes {sentence!r}, which holds something that the tokenizer reads as an end of "
                    "text; remove it, or use a checkpoint whose vocabulary has all bytes"
                )
        return sequences

    def _embed(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Projected embeddings (S, E), float32. All ids go to the device at once, and nothing waits for it."""
        rows_of = defaultdict(list)
        for row, ids in enumerate(sequences):
            rows_of[len(ids)].append(row)
        order = [row for same in rows_of.values() for row in same]
        ids = sent(torch.tensor([token for row in order for token in sequences[row]]), self.device)
        embeds, first = [], 0
        for length, same in rows_of.items():
            for start in range(0, len(same), SEQUENCES):
                count = min(SEQUENCES, len(same) - start)
                ids_SL = ids[first : first + count * length].view(count, length)
                embeds.append(self.projection(self.tower(ids_SL).pooler_output).float())
                first += count * length
        place = torch.empty(len(order), dtype=torch.int64)
        place[order] = torch.arange(len(order))
        return torch.cat(embeds)[sent(place, self.device)]


# --- weights ----------------------------------------------------------------------------------------------------------


def _load(weights: Weights, device: torch.device) -> tuple[CLIPModel | CLIPTextModelWithProjection, CLIPTokenizer]:
    """(model, tokenizer) of any of the three kinds of weights; of a checkpoint for the `meta` device reads none."""
    if weights.random is not None:
        with seeded(weights.random):
            return build_clip(), bytes_tokenizer()
    checkpoint = open_checkpoint(weights, "CLIP", {"clip": CLIPModel, "clip_text_model": CLIPTextModelWithProjection})
    tokenizer = _read_tokenizer(checkpoint)
    model = checkpoint.model(device)
    _refuse_another_tokenizer(checkpoint, model, tokenizer)
    return model, tokenizer


def bytes_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer without merges, a token a byte, for random weights: those were trained on no words."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {token: row for row, token in enumerate([*letters, *(f"{letter}</w>" for letter in letters)])}
    return CLIPTokenizer(vocab={**vocabulary, "<|startoftext|>": 49406, "<|endoftext|>": 49407}, merges=[])


def _read_tokenizer(checkpoint: Checkpoint) -> CLIPTokenizer:
    folder = checkpoint.folder
    remedy = "download or save the whole checkpoint, not only its weights"
    # transformers makes an empty vocabulary out of absent files, and says nothing.
    if not (folder / "tokenizer.json").is_file():
        for name in ("vocab.json", "merges.txt"):
            if not (folder / name).is_file():
                raise BackboneError(f"{folder} has neither tokenizer.json nor {name}; {remedy}")
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise many kinds; each means that the files are not whole
        raise BackboneError(f"{folder} holds no readable CLIP tokenizer ({error}); {remedy}") from error


def _refuse_another_tokenizer(checkpoint: Checkpoint, model: torch.nn.Module, tokenizer: CLIPTokenizer) -> None:
    """Raises BackboneError for the tokenizer of another model: its ids would embed other words, without an error."""
    config = model.text_model.config
    highest = max(tokenizer.get_vocab().values())
    # eos_token_id 2 stands in the files of 2021; transformers then pools at the highest id of a sequence.
    pooled = highest if config.eos_token_id == 2 else config.eos_token_id
    if highest >= config.vocab_size or tokenizer.eos_token_id != pooled:
        raise BackboneError(
            f"the tokenizer in {checkpoint.folder} has ids up to {highest} and ends a text with "
            f"{tokenizer.eos_token_id}, expected ids below {config.vocab_size} and {pooled} as in config.json; "
            "download or save tokenizer and weights together"
        )
