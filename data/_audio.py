"""Sound to features: decode a clip, take the logarithm of its mel spectrogram.

librosa is imported inside the functions, as its import takes seconds and most runs find the
features in the cache.
"""

import functools
import io
import warnings

import numpy as np
from jaxtyping import Float32

from lastax.data._errors import DataError

WINDOW = 256  # samples a frame sees, at 8 kHz
BANDS = 40
COEFFICIENTS = 20  # of the cepstrum
FLOOR = 1e-6  # power below which everything counts as silence
CLIPS_AT_ONCE = 64  # a spectrogram of 64 one-second clips is 7 MB: it stays in the cache


def decode_clip(packed: bytes, *, rate: int, samples: int) -> Float32[np.ndarray, " samples"]:
    """One sound file (FLAC, WAV, ...) as a mono waveform of exactly `samples` at `rate` Hz.

    A clip at another rate is resampled; a shorter one is padded with silence, a longer one cut.
    Raises DataError with the decoder's reason if `packed` is damaged or no sound at all.
    """
    import librosa
    import soundfile

    try:
        with warnings.catch_warnings():
            # Under Python 3.11 and 3.12 it imports modules that 3.13 drops, which they announce.
            warnings.simplefilter("ignore", DeprecationWarning)
            waveform, _ = librosa.load(io.BytesIO(packed), sr=rate, mono=True, dtype=np.float32)
    except (soundfile.SoundFileError, librosa.util.exceptions.ParameterError) as error:
        raise DataError(f"no sound that can be decoded: {error}") from None
    return librosa.util.fix_length(waveform, size=samples)


def log_mel(
    waveforms: Float32[np.ndarray, "clips samples"], *, rate: int, hop: int, window: int = WINDOW
) -> Float32[np.ndarray, "clips L bands"]:
    """Log-mel frames of many clips: L = samples // hop + 1 frames of BANDS values each.

    Frame k sees `window` samples around sample k * hop. Values are natural logarithms of power.
    """
    import librosa

    bank = _filter_bank(rate, window)
    clips, samples = waveforms.shape
    features = np.empty((clips, samples // hop + 1, BANDS), np.float32)
    for start in range(0, clips, CLIPS_AT_ONCE):
        part = slice(start, start + CLIPS_AT_ONCE)
        spectra = librosa.stft(waveforms[part], n_fft=window, hop_length=hop)
        power = spectra.real**2 + spectra.imag**2
        features[part] = np.log(FLOOR + np.swapaxes(power, 1, 2) @ bank.T)
    return features


@functools.lru_cache(maxsize=8)  # to make one takes half as long as the rest of a clip
def _filter_bank(rate: int, window: int) -> Float32[np.ndarray, "bands frequencies"]:
    import librosa

    return librosa.filters.mel(sr=rate, n_fft=window, n_mels=BANDS)


def mfcc(
    frames: Float32[np.ndarray, "... L bands"], *, coefficients: int = COEFFICIENTS
) -> Float32[np.ndarray, "... L coefficients"]:
    """Mel cepstrum of log-mel frames: the first coefficients of the cosine transform over bands.

    The transform (DCT-II) is orthonormal; coefficient 0 is the mean over bands, times the square
    root of their number. Davis and Mermelstein, IEEE TASSP 28(4), 1980.
    """
    bands = frames.shape[-1]
    if not 1 <= coefficients <= bands:
        raise ValueError(f"mfcc: coefficients is {coefficients}, must be in 1..{bands}")
    angles = np.pi / bands * (np.arange(bands) + 0.5)[:, None] * np.arange(coefficients)
    basis = np.sqrt(2 / bands) * np.cos(angles)
    basis[:, 0] = np.sqrt(1 / bands)
    return frames @ basis.astype(np.float32)
