"""Make a small data set of sounds below `fixtures/`, in the layout of Speech Commands v0.02.

    python tests/data/sound_fixtures.py [FOLDER]

Three words of the 35 and the folder of noise, the official lists, and clips of a tenth of a second
or less, 16 bits at 16 kHz.
"""

import io
import sys
import wave
import zipfile
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).with_name("fixtures")
FOLDER = "speech_commands_v0.02"
RATE = 16_000
WORDS = ("backward", "no", "yes")
SPEAKERS = ("0a1b2c3d", "1f2e3d4c", "2b2b2b2b", "3c0ffee0")
SPLIT_OF = {"1f2e3d4c": "validation", "3c0ffee0": "testing"}


def names() -> list[str]:
    """All clips, sorted."""
    return [f"{word}/{speaker}_nohash_0.wav" for word in WORDS for speaker in SPEAKERS]


def samples(number: int) -> np.ndarray:
    """Clip `number` of `names`: a tone of its own, shorter the larger the number."""
    count = RATE // 10 - 100 * (number % 5)
    time = np.arange(count) / RATE
    tone = np.sin(2 * np.pi * (300 + 100 * number) * time) * np.exp(-10 * time)
    return np.rint(tone * (20_000 - 500 * number) + number).astype(np.int16)


def wav(values: np.ndarray, rate: int = RATE) -> bytes:
    """A WAV file of one channel, or of as many as `values` has columns, in 16 bits."""
    packed = io.BytesIO()
    with wave.open(packed, "wb") as file:
        file.setnchannels(1 if values.ndim == 1 else values.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(values.astype("<i2").tobytes())
    return packed.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write a file below folders that are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def small_speech_archive(path: Path) -> Path:
    """Write an archive like that of `speech`, with a few of its clips in each split."""
    from lastax.data import speech
    from lastax.data._archive import open_archive

    clips = speech.clips_of_splits(open_archive(speech.ARCHIVE, hint=""))
    names = [name for split in clips.values() for name in split[::20][:5]]
    with zipfile.ZipFile(speech.ARCHIVE) as archive, zipfile.ZipFile(path, "w") as small:
        for name in (*speech.LISTS.values(), *names):
            small.writestr(name, archive.read(name))
    return path


def main(folder: Path = FIXTURES) -> None:
    """Write all of it."""
    root = folder / FOLDER
    for number, name in enumerate(names()):
        write(root / name, wav(samples(number)))
    write(root / "_background_noise_/running_tap.wav", wav(samples(3)))
    write(root / "README.md", b"Clips of a tenth of a second.\n")
    for split in ("validation", "testing"):
        listed = [name for name in names() if SPLIT_OF.get(speaker(name)) == split]
        write(root / f"{split}_list.txt", "".join(f"{name}\n" for name in listed).encode())


def speaker(name: str) -> str:
    """Who speaks a clip."""
    return name.split("/")[1].split("_nohash_")[0]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
