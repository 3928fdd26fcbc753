import hashlib
import lzma
from itertools import pairwise

import pytest
import torch

from earlycrop_lab.data import DataError
from earlycrop_lab.data import text as texts
from earlycrop_lab.data.text import END, UNKNOWN, Text, load

WORDS = "The cat's hat, the cat sat.\n\nA “dog” sat_ on 3 hats; the dog!\n"


@pytest.fixture
def small() -> Text:
    """25 training tokens in chunks of four: six whole ones and a token that is left over."""
    vocabulary = (END, UNKNOWN, *map(str, range(25)))
    return Text("small", vocabulary, *(torch.arange(size) + 2 for size in (25, 10, 7)), chunk=4)


# Chunks ---------------------------------------------------------------------------------------------------------


def test_chunks_by_hand():
    text = Text("tiny", (END, *"abc"), *(torch.tensor(t) for t in ([1, 2, 3, 1, 2, 3, 1], [1], [2, 3])), chunk=3)
    assert text.chunks(text.train).tolist() == [[0, 1, 2, 3], [3, 1, 2, 3]]  # the seventh fills no chunk
    assert [chunk.tolist() for chunk in text.whole(text.train, 1)] == [[[0, 1, 2, 3]], [[3, 1, 2, 3]], [[3, 1]]]
    assert [chunk.tolist() for chunk in text.whole(text.valid)] == [[[0, 1]]]
    assert [chunk.tolist() for chunk in text.whole(text.test)] == [[[0, 2, 3]]]


@pytest.mark.parametrize("size", range(1, 18))
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_every_token_of_a_split_is_predicted_once_and_in_its_order(small, size, batch_size):
    split = torch.arange(size) + 2
    batches = list(small.whole(split, batch_size))
    assert torch.equal(torch.cat([batch[:, 1:].reshape(-1) for batch in batches]), split)
    rows = [row for batch in batches for row in batch.tolist()]
    assert rows[0][0] == 0
    assert all(after[0] == before[-1] for before, after in pairwise(rows))


def test_an_epoch_has_each_whole_chunk_once(small):
    batches = small.batches(2, seed=0)
    assert len(batches) == 3
    seen = torch.cat(list(batches.epoch(0)))
    assert sorted(seen.tolist()) == sorted(small.chunks(small.train).tolist())


def test_the_last_smaller_batch_is_left_out(small):
    assert len(small.batches(4)) == 1
    assert [len(batch) for batch in small.batches(4).epoch(0)] == [4]
    assert small.batches(100).batch_size == 6
    assert [len(batch) for batch in small.batches(100).epoch(0)] == [6]


def test_an_epoch_depends_on_the_seed_and_its_number_alone(small):
    one, two = small.batches(3, seed=1), small.batches(3, seed=1)
    list(one.epoch(0))
    torch.manual_seed(7)
    assert all(torch.equal(a, b) for a, b in zip(one.epoch(5), two.epoch(5), strict=True))
    orders = {str(torch.cat(list(small.batches(3, seed).epoch(n))).tolist()) for seed in (0, 1) for n in (0, 1)}
    assert len(orders) == 4


def test_epochs_leave_the_random_state_alone(small):
    before = torch.get_rng_state()
    list(small.batches(2).epoch(3))
    small.scoring_batches()
    assert torch.equal(before, torch.get_rng_state())


def test_scoring_batches_are_of_the_training_split(small):
    whole = small.chunks(small.train).tolist()
    found = small.scoring_batches(samples=4, seed=0, batch_size=3)
    assert [len(batch) for batch in found] == [3, 1]
    rows = torch.cat(found).tolist()
    assert all(row in whole for row in rows)
    assert len({str(row) for row in rows}) == 4
    assert sorted(torch.cat(small.scoring_batches()).tolist()) == sorted(whole)  # all that there are
    assert torch.cat(small.scoring_batches(4, seed=1)).tolist() != rows


def test_a_part_is_the_beginning_of_the_training_split(small):
    part = small.subset(9)
    assert torch.equal(part.train, small.train[:9])
    assert torch.equal(part.valid, small.valid)
    assert part.vocabulary == small.vocabulary
    for size in (3, 26):
        with pytest.raises(DataError, match=r"use a train size from 4 .a chunk. to 25"):
            small.subset(size)


def test_what_cannot_be_is_refused(small):
    with pytest.raises(DataError, match="0 chunks; use 1 or more"):
        small.batches(0)
    with pytest.raises(DataError, match="0 chunks"):
        small.scoring_batches(0)
    with pytest.raises(DataError, match="at least one chunk of 80"):
        Text("short", (END, "a"), torch.zeros(79).long(), torch.zeros(9).long(), torch.zeros(9).long())


# The text that ships --------------------------------------------------------------------------------------------


def test_the_text_that_ships():
    text = load("sherlock")
    assert (len(text.train), len(text.valid), len(text.test)) == (38_541, 2_141, 2_142)
    assert len(text.vocabulary) == 1_985
    words = [text.vocabulary[token] for token in text.train[11:25].tolist()]
    assert " ".join(words) == "to sherlock holmes she is always the woman . i have seldom heard him"
    assert int((text.train == text.vocabulary.index(UNKNOWN)).sum()) > 1000  # so that it can be learnt
    assert "sherlock: 38,541 training" in str(text)


# A text of one's own --------------------------------------------------------------------------------------------


def test_words_signs_and_paragraphs(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("\ufeff" + 10 * WORDS, encoding="utf-8")
    text = load(f"text:{file}")
    every = torch.cat([text.train, text.valid, text.test]).tolist()
    found = [text.vocabulary[token] for token in every[:22]]
    assert " ".join(found) == "the cat's hat , the cat sat . <eos> a “ dog ” sat on 3 hats ; the dog ! the"
    assert every[: len(text.train)] == text.train.tolist()
    assert (len(text.train), len(text.valid), len(text.test)) == (len(every) * 90 // 100, 11, 11)
    assert text.vocabulary[:3] == (END, UNKNOWN, "the")  # the most frequent


def test_words_that_come_once_are_unknown(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("hapax " + 30 * "one two three four " + "unseen unseen unseen")
    text = load(f"text:{file}")
    assert set(text.vocabulary) == {END, UNKNOWN, "one", "two", "three", "four"}
    assert text.vocabulary[text.train[0]] == UNKNOWN
    assert [text.vocabulary[token] for token in text.test[-4:].tolist()] == [UNKNOWN] * 3 + [END]


def test_the_vocabulary_is_of_the_most_frequent_words(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "MOST_WORDS", 4)
    file = tmp_path / "a.txt"
    file.write_text(30 * "one one one two two three " + 30 * "one ")
    assert load(f"text:{file}").vocabulary == (END, UNKNOWN, "one", "two")


def test_marks_of_a_prepared_text_are_words(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(20 * "no <unk> is n't <num> here\n\n")
    text = load(f"text:{file}")
    assert set(text.vocabulary) == {END, UNKNOWN, "no", "is", "n't", "<num>", "here"}
    assert text.vocabulary[text.train[1]] == UNKNOWN


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "has 0 words"),
        (b" \n\n \t\n", "has 0 words"),
        (b"one two three " * 10, "has 31 words and punctuation marks. At least 89 are needed"),
        (" ".join(f"word{n}" for n in range(200)).encode(), "has no vocabulary.*none of the 180 words.*occurs twice"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is not text in UTF-8 .byte 0 is 0x89"),
        (50 * b"one two \0\0 ", "null bytes"),
        ("Motörhead ".encode("latin-1") * 100, "is not text in UTF-8 .byte 3 is 0xf6.*iconv"),
    ],
)
def test_foreign_and_empty_files_are_told(tmp_path, content, told):
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=told):
        load(f"text:{file}")
    assert file.read_bytes() == content


def test_the_shortest_text_there_can_be(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(44 * "one two ")
    text = load(f"text:{file}")
    assert (len(text.train), len(text.valid), len(text.test)) == (80, 4, 5)


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    with pytest.raises(DataError, match=r"No such file.*name a text file"):
        load(f"text:{tmp_path / 'none.txt'}")
    with pytest.raises(DataError, match="s a directory"):
        load(f"text:{tmp_path}")


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(DataError, match=r"Did you mean 'ptb'.*sherlock, ptb and text:PATH"):
        load("ptv")


# Penn Treebank --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absent", ["train", "valid", "test"])
def test_a_missing_file_of_penn_treebank_is_asked_for_with_its_place_and_source(absent, tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "PTB", dict.fromkeys(texts.PTB, hashlib.md5(b"", usedforsecurity=False).hexdigest()))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "ptb").mkdir(parents=True)
    for split in texts.PTB.keys() - {absent}:
        (tmp_path / "data" / "ptb" / f"ptb.{split}.txt").touch()
    place, source = tmp_path / "data", f"https://.*/ptb.{absent}.txt"
    told = f"not under {place}: {place}/ptb/ptb.{absent}.txt is missing. Put {source} there.*--data-root.*EARLYCROP"
    with pytest.raises(DataError, match=told):
        load("ptb", "data")


def test_files_of_penn_treebank_that_are_not_the_published_ones(tmp_path):
    file = tmp_path / "ptb" / "ptb.train.txt"
    file.parent.mkdir()
    for content in (b"", b" aer banknote \n", b"\x00\xff"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=f"not the published file.*{len(content)} bytes found.*Get https://.*text:"):
            load("ptb", tmp_path)
        assert file.read_bytes() == content


def test_lines_end_and_words_are_numbered_in_their_order(tmp_path, monkeypatch):
    lines = {"train": " a b <unk> c \n" * 30, "valid": " b a \n", "test": " c N \n"}
    (tmp_path / "ptb").mkdir()
    for split, content in lines.items():
        (tmp_path / "ptb" / f"ptb.{split}.txt").write_text(content)
    sums = {split: hashlib.md5(content.encode(), usedforsecurity=False).hexdigest() for split, content in lines.items()}
    monkeypatch.setattr(texts, "PTB", sums)
    text = load("ptb", tmp_path)
    assert text.vocabulary == ("a", "b", UNKNOWN, "c", END)
    assert text.train[:6].tolist() == [0, 1, 2, 3, 4, 0]
    assert text.valid.tolist() == [1, 0, 4]
    assert text.test.tolist() == [3, 2, 4]  # N is not known here
    assert text.chunks(text.train)[0, 0] == 4  # before the first line one has ended


@pytest.mark.data
def test_the_published_files(data_root):
    text = load("ptb", data_root)
    assert (len(text.train), len(text.valid), len(text.test), len(text.vocabulary)) == (929_589, 73_760, 82_430, 10_000)
    assert " ".join(text.vocabulary[:3]) == "aer banknote berlitz"
    assert sum(batch[:, 1:].numel() for batch in text.whole(text.test)) == 82_430


def test_the_text_inside_the_package_is_text_alone():
    packed = texts.resources.files("earlycrop_lab.data").joinpath("sherlock.txt.xz").read_bytes()
    content = lzma.decompress(packed).decode()
    assert len(packed) < 70_000
    assert "Gutenberg" not in content
    assert content.startswith("ADVENTURE I. A SCANDAL IN BOHEMIA")
