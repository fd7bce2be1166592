"""Text tokens: those of any language model, or WordPiece in 4M's layout.

That has special tokens, sentinels, numbers `v0=0` ..., class names, and learned pieces.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.errors import CheckpointError, ConfigError, DataError
from fourm.files import publish
from fourm.tokenizers.foreign_text import add_tokens, added_with_spaces, special_of
from fourm.tokenizers.wordpiece import PREFIX, learn_pieces
from fourm.tokens import SpecialIds

FILE = "tokenizer.json"
NUM_VALUES = 4
"""Values have four axes, `v0` to `v3`: the sides of a box."""
_KEPT_WORDS = 65_536
_PAD, _UNKNOWN, _START, _END = "[PAD]", "[UNK]", "[SOS]", "[EOS]"


class TextTokenizer:
    """Text to ids and back; `encode` adds no special ids.

    Where there are sentinels, the special ids are those of the published layout. Tokenizers of language models have
    none: what begins and ends a text is found by its name (`fourm.tokenizers.foreign_text`).

    Args:
        backend: a `tokenizers.Tokenizer`.

    Raises:
        ConfigError: if its special tokens are not where 4M's layout has them, or nothing ends a text.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self.num_sentinels = _count(vocabulary, "[S_{}]")
        self.num_coordinates = _count(vocabulary, "v0={}")
        self.special = _special_ids(vocabulary, self.num_sentinels) if self.num_sentinels else special_of(backend)
        self._spaced = added_with_spaces(backend)
        self._pieces: dict[str, tuple[int, ...]] = {}
        self._unwritten = {self.pad_id, self.special.start, *(self.sentinel(k) for k in range(self.num_sentinels))}

    @property
    def pad_id(self) -> int:
        return self.special.pad

    @property
    def eos_id(self) -> int:
        return self.special.end

    def sentinel(self, number: int) -> int:
        """Id of `[S_number]`.

        Raises:
            ConfigError: if the vocabulary has fewer sentinels.
        """
        if not 0 <= number < self.num_sentinels:
            raise ConfigError(
                f"sentinel {number} is not in the vocabulary, which has [S_0] to [S_{self.num_sentinels - 1}]"
            )
        return self.special.sentinel(number)

    @property
    def hash(self) -> str:
        """sha256 of vocabulary and rules: equal hashes give equal ids."""
        facts = json.loads(self._backend.to_str())
        parts = {key: facts[key] for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def encode(self, text: str) -> NDArray[np.int64]:
        """Ids (L,) of a text, without end token.

        Words that have been met before are looked up, where no rule of the tokenizer reaches beyond a space.
        """
        if not self._by_words(text):
            return np.asarray(self._backend_ids(text), np.int64)
        ids: list[int] = []
        for word in text.split(" "):
            pieces = self._pieces.get(word)
            if pieces is None:
                if len(self._pieces) >= _KEPT_WORDS:
                    self._pieces.clear()
                pieces = self._pieces[word] = tuple(self._backend_ids(word))
            ids += pieces
        return np.array(ids, np.int64)

    def encode_parts(self, parts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Ids of a text that is given in parts, divided among them.

        They are those of the whole text, since a word may not be written alone as it is behind another one: each token
        belongs to the part that it ends in, and spaces at the end of a part to what follows.

        Args:
            parts: of the text, one after another.

        Returns:
            for each part (L,), whose lengths add up to that of the text's ids.
        """
        text = "".join(parts)
        apart = self._by_words(text) and all(_meet_at_a_space(*both) for both in pairwise(parts))
        if len(parts) < 2 or apart:
            return [self.encode(part) for part in parts]
        found = self._backend.encode(text, add_special_tokens=False)
        starts = [len(text[:place].rstrip(" ")) for place in accumulate(map(len, parts[:-1]))]
        last = np.array([max(start, end - 1) for start, end in found.offsets], np.int64)
        counts = np.searchsorted(np.maximum.accumulate(last), starts)
        return np.split(np.array(found.ids, np.int64), counts)

    def _by_words(self, text: str) -> bool:
        """Whether what stands between its spaces can be encoded by itself."""
        if self._spaced is None or not (text.isascii() and text.isprintable()):
            return False
        lower = text.lower()
        return not any(name in lower for name in self._spaced)

    def _backend_ids(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_chunks(self, chunks: Iterable[str]) -> list[NDArray[np.int64]]:
        """Ids of texts that are masked as wholes, such as `v1=3 v0=10`."""
        return [self.encode(chunk) for chunk in chunks]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids up to the first end token; padding, sentinels and ids outside the vocabulary are left out."""
        kept: list[int] = []
        for token in map(int, ids):
            if token == self.eos_id:
                break
            if 0 <= token < self.vocab_size and token not in self._unwritten:
                kept.append(token)
        # Class names are special tokens too, and must stay.
        return str(self._backend.decode(kept, skip_special_tokens=False))

    def id_of(self, token: str) -> int:
        """The id of a token by its name.

        Raises:
            ConfigError: if the vocabulary has none of that name.
        """
        found = self._backend.token_to_id(token)
        if found is None:
            raise ConfigError(
                f"the text tokenizer has no token '{token}'. Train it with this name under `tokens`, or correct the "
                "name in the recipe"
            )
        return int(found)

    def token(self, id: int) -> str | None:
        """The token behind an id; None outside the vocabulary."""
        return self._backend.id_to_token(id) if 0 <= id < self.vocab_size else None

    def extended(self, tokens: Sequence[str], special: Mapping[str, str]) -> TextTokenizer:
        """The same with further special tokens.

        Args:
            tokens: their names.
            special: `start` or `end` -> name of the token that begins or ends a text.

        Raises:
            ConfigError: if a special token is none of the vocabulary.
        """
        from tokenizers import Tokenizer

        backend = Tokenizer.from_str(self._backend.to_str())
        add_tokens(backend, tokens, special)
        return TextTokenizer(backend)

    def save(self, path: str | Path) -> str:
        """Write the tokenizer to a `.json` file, or as `tokenizer.json` in a folder; returns the hash.

        Raises:
            CheckpointError: if it cannot be written.
        """
        path = _file(Path(path))
        try:
            publish(path, self._backend.to_str(pretty=True))
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error}. Free space or choose another folder") from error
        return self.hash

    @classmethod
    def load(cls, path: str | Path) -> TextTokenizer:
        """Read a tokenizer: the published `.json` file, or what `save` wrote.

        Raises:
            CheckpointError: if the file is missing or damaged.
        """
        from tokenizers import Tokenizer

        path = _file(Path(path))
        if not path.is_file():
            raise CheckpointError(
                f"there is no text tokenizer at {path}. Train one with `fourm train-wordpiece`, or correct the path"
            )
        try:
            return cls(Tokenizer.from_str(path.read_text(encoding="utf-8")))
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except Exception as error:
            raise CheckpointError(f"{path} is not a text tokenizer: {error}. Train it again") from None


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int = 30_000,
    classes: Sequence[str] = (),
    out: str | Path | None = None,
    *,
    num_sentinels: int = 200,
    num_coordinates: int = 1000,
    min_frequency: int = 0,
    tokens: Sequence[str] = (),
) -> TextTokenizer:
    """Learn word pieces from texts (4M, Mizrahi et al. 2023, sec. A.3).

    The ids are `[PAD] [UNK] [SOS] [EOS]`, the sentinels, `v0=0 ... v3=999`, further tokens, class names in alphabetical
    order, then characters and word pieces. The same texts give the same ids.

    Args:
        texts: captions; read once.
        vocab_size: largest number of ids; few texts give fewer.
        classes: names that become one id each, also inside captions ("hot dog" is one id, "hot" and "dogs" are not it).
        out: file or folder to write to.
        num_sentinels: markers of masked spans; fewer save embeddings in small models.
        num_coordinates: values each of `v0` to `v3` can take; fewer save embeddings too.
        min_frequency: pairs seen less often are not joined.
        tokens: further special tokens, such as `[IMG]`, behind the sentinels and values.

    Raises:
        ConfigError: if a token is listed twice, the vocabulary is too small for the special tokens, or a class name is
            not usable.
        DataError: if there are no texts.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    special = [*_special_tokens(num_sentinels, num_coordinates), *tokens]
    if len(set(special)) != len(special) or not all(token.strip() for token in tokens):
        raise ConfigError(f"tokens {list(tokens)}: one of them is empty, listed twice or a special token anyway")
    names = _class_names(classes, special)
    reserved = len(special) + len(names)
    if vocab_size <= reserved:
        raise ConfigError(
            f"vocab_size {vocab_size} leaves no room for text: {reserved} ids are special tokens and class names. "
            "Raise vocab_size, or lower num_coordinates or num_sentinels"
        )
    normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True
    )
    splitter = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    if not words:
        raise DataError("there are no texts to learn word pieces from. Check the folder of captions")
    pieces = learn_pieces(words, vocab_size - reserved, {*special, *names}, min_frequency)
    vocabulary = {piece: i for i, piece in enumerate([*special, *names, *pieces])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=_UNKNOWN, max_input_chars_per_word=100))
    backend.normalizer = normalizer
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.WordPiece(prefix=PREFIX)
    words_alone = [False] * 4 + [True] * (len(special) - len(tokens) - 4) + [False] * len(tokens)
    first = [
        AddedToken(token, single_word=alone, normalized=False, special=True)
        for token, alone in zip(special, words_alone)
    ]
    backend.add_special_tokens(
        [*first, *(AddedToken(n, single_word=True, normalized=True, special=True) for n in names)]
    )
    tokenizer = TextTokenizer(backend)
    if out is not None:
        tokenizer.save(out)
    return tokenizer


def _meet_at_a_space(before: str, after: str) -> bool:
    return before.endswith(" ") or after.startswith(" ")


def _special_tokens(num_sentinels: int, num_coordinates: int) -> list[str]:
    if num_sentinels < 3 or num_coordinates < 2:
        raise ConfigError(
            f"num_sentinels is {num_sentinels} (at least 3) and num_coordinates {num_coordinates} (at least 2)"
        )
    tokens = [_PAD, _UNKNOWN, _START, _END]
    tokens += [f"[S_{k}]" for k in range(num_sentinels)]
    return tokens + [f"v{axis}={value}" for axis in range(NUM_VALUES) for value in range(num_coordinates)]


def _class_names(classes: Sequence[str], special: Sequence[str]) -> list[str]:
    names = [" ".join(name.lower().split()) for name in classes]
    for name in names:
        if not name or name in special or names.count(name) > 1:
            raise ConfigError(f"class name '{name}' is empty, listed twice or a special token")
    return sorted(names)


def _special_ids(vocabulary: dict[str, int], num_sentinels: int) -> SpecialIds:
    """Those of 4M's layout."""
    for place, token in enumerate([_PAD, _UNKNOWN, _START, _END, "[S_0]"]):
        if vocabulary.get(token) != place:
            raise ConfigError(
                f"text tokenizer: {token} has id {vocabulary.get(token)}, expected {place}; train it with fourm"
            )
    return SpecialIds(num_sentinels=num_sentinels)


def _count(vocabulary: dict[str, int], pattern: str) -> int:
    number = 0
    while pattern.format(number) in vocabulary:
        number += 1
    return number


def _file(path: Path) -> Path:
    return path if path.suffix == ".json" else path / FILE
