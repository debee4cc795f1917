"""LJSpeech: `metadata.csv` with `id|transcript|normalised transcript`, and `wavs/<id>.wav`.

Source: Ito & Johnson, "The LJ Speech Dataset", 2017, public domain; prepared as in fairseq's
`examples/speech_synthesis`, which CAB ran.
Departs from it: a frame that the durations of a TextGrid have beyond the recording repeats the
last; fairseq has zeros there, which in log-mels is a bang. What cannot be used is left out.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tasks.cab.text_to_speech import alignment, text, textgrid
from tasks.cab.text_to_speech.audio import Spectrum
from tasks.cab.text_to_speech.pitch import energy, pitch
from tasks.cache import cache_folder, publish
from tasks.prepared import Item, Prepared, Unusable, prepare

NAME, NUM_CLIPS = "LJSpeech", 13_100
VERSION, ALIGNMENT_VERSION = 2, 1
SPLITS = ("official", "ratio", "auto")
OFFICIAL = {"LJ001": "test", "LJ002": "test", "LJ003": "validation"}
"""The split of a chapter, after FastSpeech; the others are for training."""
SEPARATOR = "\n"
"""Between the symbols of a text, in what is kept of it."""


@dataclass(frozen=True)
class Options:
    """How recordings are prepared.

    Attributes:
        spectrum: Of the log-mels.
        text: See `tasks.cab.text_to_speech.text`.
        needs_durations: Whether pitch, energy and durations are made.
        max_source_len: Of a text with its `</s>`.
        max_target_len: Of a recording, in frames.
    """

    spectrum: Spectrum
    text: str
    needs_durations: bool
    max_source_len: int
    max_target_len: int


def read(
    folder: Path,
    options: Options,
    *,
    textgrids: Path | None,
    cache_dir: str | None = None,
    num_workers: int = 0,
) -> Prepared:
    """The usable clips, in the order of the metadata.

    Of each: `symbols`, `mel` (T, F), `sums` (1, 2F) of its frames and of their squares, `rate` of
    the file; and where durations are needed `pitch` and `energy` (T,), and with TextGrids
    `duration` (N,).

    Raises:
        FileNotFoundError: If the metadata or the folder of TextGrids is not there.
        ModuleNotFoundError: If what makes phonemes is not installed.
        ValueError: If nothing can be used.
    """
    if textgrids is None:
        text.check(options.text)
    elif not textgrids.is_dir():
        raise FileNotFoundError(f"{textgrids}: there is no such folder of TextGrids")
    prepared = prepare(
        NAME,
        items(folder, textgrids),
        partial(prepare_clip, options=options),
        version=VERSION,
        settings=asdict(options),
        cache_dir=cache_dir,
        num_workers=num_workers,
    )
    rates = prepared.arrays["rate"]
    others = rates[rates != options.spectrum.sample_rate]
    if len(others):
        named = ", ".join(f"{rate:,} Hz" for rate in np.unique(others))
        warnings.warn(
            f"{NAME}: {len(others)} of {len(rates)} recordings were resampled from {named} to "
            f"{options.spectrum.sample_rate:,} Hz",
            stacklevel=2,
        )
    return prepared


def items(folder: Path, textgrids: Path | None) -> list[Item]:
    """One for each line of the metadata that is not blank; a malformed one says so in `about`."""
    metadata = folder / "metadata.csv"
    if not metadata.is_file():
        raise FileNotFoundError(
            f"{metadata}: there is no such file; the source is a folder with LJSpeech "
            "(keithito.com/LJ-Speech-Dataset), or 'generated'"
        )
    found: dict[str, Item] = {}
    for number, line in enumerate(metadata.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        fields = line.rstrip("\r").split("|")
        name, wrong = fields[0], ""
        if len(fields) != 3:
            wrong = f"{len(fields)} fields, not 3 (id|transcript|normalised transcript)"
        elif not name or Path(name).name != name:
            wrong = f"{name!r} is no id"
        elif name in found:
            wrong = f"the id {name} is there twice"
        if wrong:
            name, wrong = f"line {number}", f"{metadata}, line {number}: {wrong}"
            found[name] = Item(name, (metadata,), {"wrong": wrong})
            continue
        files = [folder / "wavs" / f"{name}.wav"]
        if textgrids is not None:
            files.append(textgrids / f"{name}.TextGrid")
        found[name] = Item(name, tuple(files), {"transcript": fields[2]})
    return list(found.values())


def prepare_clip(item: Item, options: Options) -> Mapping[str, np.ndarray]:
    """See `read`."""
    if "wrong" in item.about:
        raise Unusable(item.about["wrong"])
    spectrum, wav = options.spectrum, item.files[0]
    samples, rate = _load(wav, spectrum.sample_rate)
    arrays: dict[str, np.ndarray] = {}
    if len(item.files) == 1:
        symbols = text.symbols(item.about["transcript"], options.text)
        if not symbols:
            raise Unusable(f"{wav}: the transcript of {item.name} is empty")
    else:
        try:
            phonemes = textgrid.read(item.files[1])
        except ValueError as error:
            raise Unusable(str(error)) from None
        symbols = [phoneme.symbol for phoneme in phonemes]
        edges = np.array([phonemes[0].begin, *(phoneme.end for phoneme in phonemes)])
        samples = samples[slice(*(edges[[0, -1]] * spectrum.sample_rate).astype(int))]
        arrays["duration"] = np.diff(
            np.round(edges * spectrum.sample_rate / spectrum.hop_len)
        ).astype(np.int64)
    if len(symbols) >= options.max_source_len:
        raise Unusable(
            f"{wav}: its text has {len(symbols) + 1} tokens, max_source_len is "
            f"{options.max_source_len}"
        )
    if len(samples) <= spectrum.window_len // 2:
        raise Unusable(f"{wav}: {len(samples)} samples are no frame")
    arrays |= _frames(samples, options, arrays.get("duration"))
    num_frames = len(arrays["mel"])
    if num_frames > options.max_target_len:
        raise Unusable(
            f"{wav}: it has {num_frames} frames, max_target_len is {options.max_target_len}"
        )
    if options.needs_durations and len(item.files) == 1 and num_frames < len(symbols):
        raise Unusable(f"{wav}: {num_frames} frames are fewer than its {len(symbols)} tokens")
    joined = SEPARATOR.join(symbols).encode()
    arrays["symbols"] = np.frombuffer(joined, dtype=np.uint8)
    arrays["rate"] = np.array([rate])
    return arrays


def _load(wav: Path, sample_rate: int) -> tuple[np.ndarray, int]:
    """The samples, float32 (L,), at the wanted rate; and the rate that they had."""
    import librosa
    import soundfile

    with wav.open("rb") as file:  # an OSError of its own, which soundfile's is not
        try:
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise Unusable(f"{wav}: {error}") from None
    samples = samples.mean(axis=1)
    if not np.isfinite(samples).all():
        raise Unusable(f"{wav}: some samples are no numbers")
    if rate != sample_rate:
        samples = librosa.resample(samples, orig_sr=rate, target_sr=sample_rate)
    return samples, rate


def _frames(
    samples: np.ndarray, options: Options, durations: np.ndarray | None
) -> dict[str, np.ndarray]:
    spectrum, waveform = options.spectrum, torch.from_numpy(samples)
    mel = spectrum.log_mel(waveform)
    values = {"mel": mel.numpy()}
    if options.needs_durations:
        values |= {"pitch": pitch(samples, spectrum), "energy": energy(waveform, spectrum)}
    if durations is not None:
        places = np.minimum(np.arange(durations.sum()), len(mel) - 1)
        values = {name: frames[places] for name, frames in values.items()}
    frames = values["mel"].astype(np.float64)
    values["sums"] = np.concatenate([frames.sum(axis=0), (frames**2).sum(axis=0)])[None]
    return values


def split_of(names: Sequence[str], split: str) -> tuple[str, dict[str, np.ndarray]]:
    """Which clips are in "train", "validation" and "test", and what "auto" came to.

    Args:
        names: Of the clips.
        split: "official", by chapter; "ratio", of the clips in their order 80, 10 and 10 percent,
            at least one each; "auto", "official" if no split is empty then, else "ratio".

    Raises:
        ValueError: If a split would be empty.
    """
    chapters = np.array([OFFICIAL.get(name.split("-")[0], "train") for name in names])
    official = {part: np.flatnonzero(chapters == part) for part in ("train", "validation", "test")}
    is_whole = all(map(len, official.values()))
    if split == "official" or (split == "auto" and is_whole):
        if not is_whole:
            empty = [part for part, clips in official.items() if not len(clips)]
            raise ValueError(
                f"{NAME}: the official split has no clips for {' and '.join(empty)}; a part of "
                "the data set takes task.data.split=ratio"
            )
        return "official", official
    held_out = max(len(names) // 10, 1)
    if len(names) <= 2 * held_out:
        raise ValueError(f"{NAME}: {len(names)} clips are too few for three splits")
    parts = np.split(np.arange(len(names)), [-2 * held_out, -held_out])
    return "ratio", dict(zip(official, parts, strict=True))


def symbols_of(prepared: Prepared) -> list[list[str]]:
    """The symbols of each clip."""
    return [
        prepared.get("symbols", clip).tobytes().decode().split(SEPARATOR)
        for clip in range(len(prepared))
    ]


def aligned(
    prepared: Prepared,
    tokens: Sequence[np.ndarray],
    train: np.ndarray,
    *,
    cache_dir: str | None = None,
) -> np.ndarray:
    """How many frames each token has, int64 (all tokens,), by `alignment`; kept on disk.

    Args:
        prepared: The clips.
        tokens: Of each clip, numbers from 0.
        train: Which of them the alignment is learnt from.
        cache_dir: See `tasks.cache.cache_folder`.
    """
    together = np.concatenate(tokens)
    of = hashlib.sha256(f"{ALIGNMENT_VERSION} {prepared.names}".encode())
    # The sums of the frames stand for them; the frames may be gigabytes.
    for array in (together, train, prepared.ends["mel"], prepared.arrays["sums"]):
        of.update(np.ascontiguousarray(array).tobytes())
    folder = cache_folder(cache_dir) / "alignments" / f"{NAME}-{of.hexdigest()[:32]}"
    if not folder.exists():
        clips = [
            alignment.Clip(prepared.get("mel", clip), numbers)
            for clip, numbers in enumerate(tokens)
        ]
        model = alignment.learn([clips[i] for i in train], int(together.max()) + 1)
        durations = np.concatenate(alignment.align(model, clips))
        publish(folder, lambda draft: np.save(draft / "durations.npy", durations))
    return np.load(folder / "durations.npy")


def moments(prepared: Prepared, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the deviation of the frames of some clips, float32 (F,) each."""
    sums = prepared.arrays["sums"][clips].sum(axis=0) / prepared.lengths("mel")[clips].sum()
    mean, square = np.split(sums, 2)
    deviation = np.sqrt(np.maximum(square - mean**2, 1e-10))
    return mean.astype(np.float32), deviation.astype(np.float32)
