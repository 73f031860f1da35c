"""`draw_data`: which records are drawn, and how."""

import dataclasses

import numpy as np
import pytest

from lastax.data import Data, balanced_records, draw_data
from lastax.plots._records import spectrogram, spell


class Labels:
    """Random records of shape (16, 2) with given labels."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        x = np.random.default_rng(index).normal(size=(16, 2)).astype(np.float32)
        return {"x": x, "label": np.int32(self.labels[index])}


DATA = Data(
    sources={"train": Labels(np.array([0, 1, 2, 0])), "test": Labels(np.array([1, 2]))},
    classes=("a", "b", "c"),
    input_size=2,
    length=16,
)


def test_classes_alternate():
    labels = np.array([0] * 50 + [1] * 3 + [2])
    data = dataclasses.replace(DATA, sources={"train": Labels(labels)})
    chosen = balanced_records(data, "train", 6)
    assert [labels[number] for number in chosen] == [0, 1, 2, 0, 1, 0]
    assert len(set(chosen)) == 6
    assert chosen != balanced_records(data, "train", 6, seed=1)


def test_a_tone_is_at_its_frequency():
    tone = np.sin(2 * np.pi * 0.1 * np.arange(4000))
    assert (spectrogram(tone).argmax(axis=1) == 40).all()
    assert spectrogram(tone[:100]).shape == (1, 201)


def test_tokens_are_spelled_as_text():
    letters = ("<pad>", "<eos>", "a", "b", "<", "\x85", "漢")
    assert spell(np.array([2, 3, 4, 5, 6, 1]), letters) == "ab<··<eos>"
    words = ("<pad>", "[MAX", "1", "]")
    assert spell(np.array([1, 2, 2, 3]), words) == "[MAX 1 1 ]"


@pytest.mark.parametrize("kind", ["audio", "features"])
def test_a_figure_has_the_records_and_the_shares(kind):
    figure = draw_data(DATA, kind, records=[1, 3], title="mine")
    assert figure.get_suptitle() == "mine: 4 train, 2 test; 16 steps of 2"
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title for title in titles if title] == ["b  (train 1)", "a  (train 3)"]
    bars = [[bar.get_height() for bar in bars] for bars in figure.axes[-1].containers]
    np.testing.assert_allclose(bars, [[50, 25, 25], [0, 50, 50]])


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match=r"draw_data: split must be one of .*; got 'all'"):
        draw_data(DATA, "features", split="all", records=[0])
