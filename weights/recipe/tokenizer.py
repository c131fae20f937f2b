"""Makes a byte-pair encoding in CLIP's format from a list of sentences. Knows no picture and no network."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


def merges_of(sentences: Iterable[str], most: int) -> list[tuple[str, str]]:
    """Learns which neighbours to join, the commonest pair first and the first in the alphabet among equals.

    Args:
        sentences: lower-case text.
        most: number of merges; fewer when every word is one symbol already.

    Source: Sennrich et al., ACL 2016, algorithm 1; the end of a word is part of its last letter, as in CLIP.
    """
    words = Counter(word for sentence in sentences for word in re.findall(r"[a-z]+|[^\sa-z]", sentence))
    split = {word: (*word[:-1], word[-1] + WORD_END) for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < most:
        pairs = Counter[tuple[str, str]]()
        for word, symbols in split.items():
            for pair in pairwise(symbols):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = {word: _join(symbols, best) for word, symbols in split.items()}
    return merges


def _join(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    joined: list[str] = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return tuple(joined)


def write_tokenizer(folder: Path, sentences: Iterable[str], merges: int = 700, context: int = 77) -> int:
    """Writes vocab.json, merges.txt, tokenizer.json and tokenizer_config.json, which transformers' CLIPTokenizer loads.

    The vocabulary has CLIP's order: the 256 bytes, the same at the end of a word, the merges, start and end; so every
    text has its tokens, and none is unknown.

    Returns:
        The size of the vocabulary; the last two are start and end.
    """
    pairs = merges_of(sentences, merges)
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + WORD_END for letter in letters), *("".join(pair) for pair in pairs), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    folder.mkdir(parents=True, exist_ok=True)
    CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=context).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(vocabulary)
