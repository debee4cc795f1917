"""Tokenizers of the text tasks: byte-level BPE trained on the training split, or a published one.

A byte-level tokenizer has no unknown token: every text survives encoding and decoding unchanged.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


def train_byte_bpe(
    texts: Iterable[str],
    *,
    vocab_size: int,
    special_tokens: Sequence[str],
    cache: Path | None = None,
) -> Tokenizer:
    """Byte-level BPE (as of GPT-2 and BART) fitted to `texts`, which must be training rows only.

    A fitted tokenizer is kept in `cache` under a hash of the texts and the settings, so that the
    runs of a sweep fit it once.

    Args:
        texts: Read twice, so no generator.
        vocab_size: Tokens, with the 256 bytes and the special tokens; fewer where `texts` have
            fewer pairs.
        special_tokens: They take the ids from 0 on. Where they stand in a text they are encoded as
            text, so that no document can end itself.
        cache: A folder; None for `attnbench/tokenizers` in the cache of Hugging Face (HF_HOME).

    Raises:
        ValueError: If `vocab_size` cannot hold the bytes, or `texts` are empty or a generator.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + len(special_tokens)
    if vocab_size < least:
        raise ValueError(
            f"vocab_size must be at least {least}, the 256 bytes and {len(special_tokens)} special "
            f"tokens, got {vocab_size}"
        )
    if iter(texts) is texts:
        raise ValueError("texts are read twice: give a list or a column, not a generator")
    path = (cache or _cache()) / f"{_digest(texts, vocab_size, special_tokens)}.json"
    if path.exists():
        tokenizer = Tokenizer.from_file(str(path))
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(special_tokens),
            initial_alphabet=alphabet,
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        _save(tokenizer, path)
    tokenizer.encode_special_tokens = True
    return tokenizer


def published_tokenizer(name: str, *, special_tokens: Sequence[str] = ()) -> Tokenizer:
    """The tokenizer of a model on the Hugging Face hub, or of a `tokenizer.json` on this machine.

    Args:
        name: For example `facebook/bart-base`, or a path that ends in `.json`.
        special_tokens: Those that it must have.

    Raises:
        ValueError: If it cannot be had, or lacks a special token.
    """
    try:
        is_file = name.endswith(".json")
        tokenizer = Tokenizer.from_file(name) if is_file else Tokenizer.from_pretrained(name)
    except Exception as error:  # the library raises plain Exception
        raise ValueError(
            f"cannot get the tokenizer {name!r} ({str(error).splitlines()[0]}); give a model of "
            "the Hugging Face hub that can be reached from here, the path of a tokenizer.json, or "
            "null to train one on the training split"
        ) from error
    missing = [token for token in special_tokens if tokenizer.token_to_id(token) is None]
    if missing:
        raise ValueError(f"tokenizer {name!r} has no token {', '.join(map(repr, missing))}")
    tokenizer.encode_special_tokens = True
    return tokenizer


def _cache() -> Path:
    # Here, as only the texts that are read from files need it.
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "attnbench" / "tokenizers"


def _digest(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str]) -> str:
    digest = hashlib.sha256(repr((vocab_size, list(special_tokens))).encode())
    length = 0
    for text in texts:
        content = text.encode()
        length += len(content)
        digest.update(len(content).to_bytes(8, "little") + content)
    if not length:
        raise ValueError("cannot train a tokenizer: the texts are empty")
    return digest.hexdigest()[:32]


def _save(tokenizer: Tokenizer, path: Path) -> None:
    """Write atomically: the runs of a sweep may all want to write it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(tokenizer.to_str())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
