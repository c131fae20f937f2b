"""The mini CLIP's tokenizer knows each word of the toy world whole, and any other text without unknowns."""

import pytest

from pipeline.toyworld.vocabulary import phrases
from tests.later import Later

clip = Later("weights.recipe.clip")
recipe_tokenizer = Later("weights.recipe.tokenizer")
transformers = Later("transformers")

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    recipe_tokenizer.write_tokenizer(folder, clip.sentences())
    return folder


def test_every_word_of_the_vocabulary_is_one_token(folder):
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    for phrase in phrases():
        assert len(tokenizer(phrase)["input_ids"]) == len(phrase.split()) + 2, phrase


def test_any_text_comes_back_from_its_tokens_without_unknowns(folder):
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    for text in ("a photo of a starfish", "the quick brown fox jumps over the lazy dog", "wörter, 42 ?", *phrases()):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id == len(tokenizer) - 2
        assert ids[-1] == tokenizer.eos_token_id == len(tokenizer) - 1
        assert len(tokenizer) - 1 not in ids[1:-1]
        spaced = tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "")
        assert spaced == text.replace(" ", "")


def test_capitals_do_not_matter_and_both_loaders_agree(folder):
    texts = ["Lift The STAR", "lift the star"]
    one, two = (
        loader.from_pretrained(folder)(texts)["input_ids"]
        for loader in (transformers.CLIPTokenizer, transformers.AutoTokenizer)
    )
    assert one == two and one[0] == one[1]


def test_the_two_plain_files_alone_are_enough(folder, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text((folder / name).read_text())
    text = "a close-up photo of a zebra on gravel"
    assert transformers.CLIPTokenizer.from_pretrained(tmp_path)(text) == transformers.CLIPTokenizer.from_pretrained(
        folder
    )(text)


def test_the_commonest_pair_is_joined_first_and_the_alphabet_breaks_ties():
    found = recipe_tokenizer.merges_of(["xbc ybc abc abd abz"], 3)
    assert found == [("a", "b"), ("b", "c</w>"), ("ab", "c</w>")]
    assert recipe_tokenizer.merges_of(["aa aa"], 10) == [("a", "a</w>")]
