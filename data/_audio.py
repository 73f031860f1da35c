"""Audio features: decoding, log-mel spectrograms, mel-frequency cepstral coefficients.

librosa is imported inside the functions, because the import takes seconds and most runs find
the features in the cache.
"""

import functools
import io
import warnings

import numpy as np
from jaxtyping import Float32, Float64

from lastax.data._errors import DataError

WINDOW = 256  # samples per window, at 8 kHz
BANDS = 40
COEFFICIENTS = 20  # cepstral coefficients per frame
FLOOR = 1e-6  # added to the power before the logarithm
CLIPS_AT_ONCE = 64  # their spectrogram has 7 MB and fits into the CPU cache


def decode_clip(packed: bytes, *, rate: int, samples: int) -> Float32[np.ndarray, " samples"]:
    """Decode an audio file (FLAC, WAV, ...) to a mono waveform of fixed length.

    Clips at another rate are resampled. Short clips are padded with silence, long ones are cut.

    Args:
        packed: content of the file.
        rate: samples per second of the result.
        samples: length of the result.

    Raises:
        DataError: with the reason of the decoder, if the file cannot be decoded.
    """
    import librosa
    import soundfile

    try:
        with warnings.catch_warnings():
            # On Python 3.11 and 3.12, librosa imports modules that are deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            waveform, _ = librosa.load(io.BytesIO(packed), sr=rate, mono=True, dtype=np.float32)
    except (soundfile.SoundFileError, librosa.util.exceptions.ParameterError) as error:
        raise DataError(f"not decodable: {error}") from None
    return librosa.util.fix_length(waveform, size=samples)


def log_mel(
    waveforms: Float32[np.ndarray, "clips samples"], *, rate: int, hop: int, window: int = WINDOW
) -> Float32[np.ndarray, "clips L bands"]:
    """Log-mel spectrograms of many clips: L = samples // hop + 1 frames of BANDS values.

    Frame k covers `window` samples centered at sample k * hop. Values are natural logarithms of
    the power.
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


def log_mel_of_windows(
    windows: Float32[np.ndarray, "n window"], *, rate: int
) -> Float32[np.ndarray, "n bands"]:
    """The frames of `log_mel` of these windows of samples, for sounds that come in blocks."""
    # librosa multiplies and transforms in double precision, and stores single precision.
    spectra = np.fft.rfft(windows * _hann(windows.shape[1])).astype(np.complex64)
    power = spectra.real**2 + spectra.imag**2
    return np.log(FLOOR + power @ _filter_bank(rate, windows.shape[1]).T)


@functools.lru_cache(maxsize=8)
def _hann(window: int) -> Float64[np.ndarray, " window"]:
    import librosa

    return librosa.filters.get_window("hann", window, fftbins=True)


@functools.lru_cache(maxsize=8)  # computing one costs half as much as the rest of a clip
def _filter_bank(rate: int, window: int) -> Float32[np.ndarray, "bands frequencies"]:
    import librosa

    return librosa.filters.mel(sr=rate, n_fft=window, n_mels=BANDS)


def mfcc(
    frames: Float32[np.ndarray, "... L bands"], *, coefficients: int = COEFFICIENTS
) -> Float32[np.ndarray, "... L coefficients"]:
    """Mel-frequency cepstral coefficients: the first coefficients of a cosine transform over bands.

    The transform (DCT-II) is orthonormal: coefficient 0 is the mean over the bands times the
    square root of the number of bands. Davis and Mermelstein, IEEE TASSP 28(4), 1980.

    Raises:
        ValueError: if `coefficients` is not between 1 and the number of bands.
    """
    bands = frames.shape[-1]
    if not 1 <= coefficients <= bands:
        raise ValueError(f"mfcc: coefficients is {coefficients}, must be in 1..{bands}")
    angles = np.pi / bands * (np.arange(bands) + 0.5)[:, None] * np.arange(coefficients)
    basis = np.sqrt(2 / bands) * np.cos(angles)
    basis[:, 0] = np.sqrt(1 / bands)
    return frames @ basis.astype(np.float32)
