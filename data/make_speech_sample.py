"""Make the bundled speech sample: ten spoken words, small enough for the repository.

    python data/make_speech_sample.py SOURCE_ZIP data/speech_commands_10.zip

SOURCE is a zip archive or a folder of clips in the layout of the official data set:
`<word>/<speaker>_nohash_<k>.<wav or flac>`, `validation_list.txt`, `testing_list.txt`, `LICENSE`.
The result is deterministic for fixed versions of the FLAC encoder and the resampler.
"""

import argparse
import functools
import io
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float, Int16

RATE = 8000
MAGNITUDE_BITS = 9  # plus the sign, for the loudest sample of a clip
SIZE_LIMIT = 15_000_000
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
LISTS = ("validation_list.txt", "testing_list.txt")

README = """Speech Commands, ten words, at 8 kHz

A small derivative of the Speech Commands data set, version 0.02:
P. Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition",
arXiv:1804.03209, 2018. License: Creative Commons Attribution 4.0 International
(CC BY 4.0), see LICENSE.

Changes made:
- ten of the words only: yes, no, up, down, left, right, on, off, stop, go;
- {clips} clips, taken from those that the official testing_list.txt names;
- own validation_list.txt and testing_list.txt, since the official ones would put every clip
  into the test set; no speaker (the part of a name before _nohash_) is in two parts. Names
  end in .flac here. Clips in neither list are for training;
- resampled from 16 kHz to 8 kHz;
- requantized: samples are rounded to the {bits} highest bits of their clip's peak (and the
  sign), all lower bits are zero;
- stored as 16-bit FLAC instead of WAV.

Accuracies on this split are not comparable with published figures.
"""


def open_source(path: Path) -> Mapping[str, Callable[[], bytes]]:
    """Files in `path` (zip or folder): relative name -> function that reads the content."""
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file())
        return {file.relative_to(path).as_posix(): file.read_bytes for file in files}
    archive = zipfile.ZipFile(path)
    members = [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]
    # The original archive has a top-level folder; a sample made by this script has none.
    bare = any(member.name == "LICENSE" and len(member.parts) == 1 for member in members)
    return {
        str(member if bare else PurePosixPath(*member.parts[1:])): functools.partial(
            archive.read, str(member)
        )
        for member in members
    }


def requantize(waveform: Float[np.ndarray, " n"]) -> Int16[np.ndarray, " n"]:
    """`waveform` (in -1..1) as 16-bit samples, with the low bits rounded to zero.

    The quantization step is a power of two, because FLAC does not store low bits that are zero.
    """
    samples = np.clip(np.rint(waveform * 2.0**15), -(2**15), 2**15 - 1).astype(np.int64)
    step = 1 << max(0, int(np.abs(samples).max()).bit_length() - MAGNITUDE_BITS)
    highest = (2**15 - 1) // step  # rounding up must not exceed 16 bits
    return (np.minimum(np.rint(samples / step), highest) * step).astype(np.int16)


def encode(clip: bytes) -> bytes:
    """Convert a WAV or FLAC file to a FLAC file at 8 kHz."""
    import librosa
    import soundfile

    waveform, rate = soundfile.read(io.BytesIO(clip), dtype="float64")
    waveform = librosa.resample(waveform, orig_sr=rate, target_sr=RATE, res_type="soxr_hq")
    packed = io.BytesIO()
    samples = requantize(waveform)
    soundfile.write(packed, samples, RATE, format="FLAC", subtype="PCM_16", compression_level=1.0)
    return packed.getvalue()


def sample_members(source: Mapping[str, Callable[[], bytes]]) -> dict[str, bytes]:
    """All members of the sample, name -> content, in the order of the archive."""
    missing = [name for name in (*LISTS, "LICENSE") if name not in source]
    if missing:
        raise SystemExit(f"the source lacks {', '.join(missing)}; see the layout in --help")
    clips = sorted(
        name
        for name in source
        if PurePosixPath(name).parent.name in WORDS and name.endswith((".wav", ".flac"))
    )
    members = {
        "README.txt": README.format(clips=f"{len(clips):,}", bits=MAGNITUDE_BITS).encode(),
        "LICENSE": source["LICENSE"](),
    }
    for name in LISTS:
        lines = source[name]().decode().split()
        kept = [line for line in lines if PurePosixPath(line).parent.name in WORDS]
        flac = [PurePosixPath(line).with_suffix(".flac").as_posix() for line in kept]
        members[name] = "".join(f"{line}\n" for line in flac).encode()
    for name in clips:
        members[PurePosixPath(name).with_suffix(".flac").as_posix()] = encode(source[name]())
    return members


def write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    """Write `members` to the zip file `path` atomically."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # identical on all systems
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)
    size = packed.getbuffer().nbytes
    if size > SIZE_LIMIT:
        raise SystemExit(f"{path} would have {size:,} bytes, above the limit of {SIZE_LIMIT:,}")
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(packed.getbuffer())
        os.chmod(unfinished, 0o644)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise
    print(f"{path}: {len(members):,} members, {size:,} bytes")


def main(arguments: list[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="zip or folder with the clips")
    parser.add_argument("output", type=Path, help="zip to write")
    options = parser.parse_args(arguments)
    if not options.source.exists():
        parser.error(f"{options.source} does not exist")
    write_zip(options.output, sample_members(open_source(options.source)))


if __name__ == "__main__":
    main(sys.argv[1:])
