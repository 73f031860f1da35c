"""C code of log-mel features and of a network: written, compiled, run and timed.

`study_device.py` uses it.
"""

import ctypes
import io
import subprocess
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import librosa
import numpy as np
import soundfile

from lastax.data import speech

CODE = Path(__file__).with_name("device")
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2", "-shared", "-fPIC")
# As in `device/log_mel.h`.
RATE, HOP, WINDOW, BANDS = 8000, 80, 256, 40
STEPS = RATE // HOP + 1
# Runs of one clip, of which the fastest counts. Short runs are rarely interrupted.
REPEATS = 1000


class Cost(NamedTuple):
    """What a program needs; as `lastax.deployment.Footprint`, without parameters."""

    flash_bytes: int
    state_bytes: int
    multiply_adds: int


def test_clips():
    """The test split as samples, in the order of its records, with silence at the end."""
    with zipfile.ZipFile(speech.ARCHIVE) as archive:
        listed = set(archive.read("testing_list.txt").decode().split())
        names = sorted(name for name in archive.namelist() if name in listed)
        clips = np.zeros((len(names), RATE + WINDOW // 2), np.float32)
        for clip, name in zip(clips, names, strict=True):
            samples, rate = soundfile.read(io.BytesIO(archive.read(name)), dtype="float32")
            assert rate == RATE, name
            clip[: len(samples)] = samples
    return clips


def write_tables(file, mean, deviation):
    """Write the constants of `device/log_mel.c`, and return the cost of the features."""
    angles = 2 * np.pi * np.arange(WINDOW // 2) / WINDOW
    bank = librosa.filters.mel(sr=RATE, n_fft=WINDOW, n_mels=BANDS)
    first = np.argmax(bank > 0, axis=1)
    counts = np.count_nonzero(bank, axis=1)
    # Filters are triangles: the weights of a band are neighbors.
    weights = [row[start : start + n] for row, start, n in zip(bank, first, counts, strict=True)]
    tables = {
        "hann": librosa.filters.get_window("hann", WINDOW),
        "cosines": np.cos(angles),
        "sines": np.sin(angles),
        "mel_first": first.astype(np.uint8),
        "mel_counts": counts.astype(np.uint8),
        "mel_weights": np.concatenate(weights),
        "mean": mean,
        "inverse_deviation": 1 / deviation,
    }
    lines, flash = [], 0
    for name, values in tables.items():
        integer = values.dtype == np.uint8
        kind, suffix = ("uint8_t", "") if integer else ("float", "f")
        values = values if integer else values.astype(np.float32)
        flash += values.nbytes
        text = ", ".join(f"{value!s}{suffix}" for value in values)
        lines.append(f"static const {kind} {name}[{len(values)}] = {{{text}}};")
    file.write_text("\n".join(lines) + "\n")
    half = WINDOW // 2
    butterflies = half // 2 * int(np.log2(half))
    # Window, butterflies, separation of even and odd samples, power, bands, standardization.
    work = WINDOW + 4 * butterflies + 8 * (half - 1) + 2 * (half + 1) + int(counts.sum()) + BANDS
    return Cost(flash, 4 * WINDOW, work)


def compile_library(sources, library, *folders):
    """Compile C files as a library, and load it."""
    include = [f"-I{folder}" for folder in folders]
    subprocess.run(["cc", *FLAGS, *include, *sources, "-o", library, "-lm"], check=True)
    return ctypes.CDLL(str(library))


def pointer(array):
    """The address of an array of float32, for C."""
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


class Features:
    """Features of clips by the C code."""

    def __init__(self, folder, mean, deviation):
        """Write tables to a folder and compile the code there."""
        self.cost = write_tables(folder / "log_mel_tables.h", mean, deviation)
        sources = [CODE / "log_mel.c", CODE / "clip_features.c"]
        self._code = compile_library(sources, folder / "features.so", CODE, folder)

    def __call__(self, clips):
        """The features of clips of `test_clips`."""
        clips = np.ascontiguousarray(clips)
        found = np.empty((len(clips), STEPS, BANDS), np.float32)
        self._code.clip_features(pointer(clips), *clips.shape, STEPS, pointer(found))
        return found


class Words:
    """Logits of clips by the C code of a network, which `to_c` wrote to a folder as `word`."""

    def __init__(self, folder, classes):
        """Compile the code, and run the test that comes with it."""
        self._classes = classes
        sources = [folder / "word.c", CODE / "clip_logits.c"]
        self._code = compile_library(sources, folder / "word.so", folder)
        sources, test = [folder / "word.c", folder / "word_test.c"], folder / "test"
        subprocess.run(["cc", "-std=c99", "-O2", *sources, "-o", test, "-lm"], check=True)
        subprocess.run([test], check=True, stdout=subprocess.DEVNULL)

    def __call__(self, features):
        """The logits after the last step of each clip."""
        features = np.ascontiguousarray(features, np.float32)
        found = np.empty((len(features), self._classes), np.float32)
        self._code.clip_logits(pointer(features), *features.shape[:2], pointer(found))
        return found


def microseconds(function, clips):
    """Time per step of a function of clips: the fastest of several runs."""
    clip, times = clips[:1], []
    for _ in range(REPEATS):
        started = time.perf_counter()
        function(clip)
        times.append(time.perf_counter() - started)
    return 1e6 * min(times) / STEPS
