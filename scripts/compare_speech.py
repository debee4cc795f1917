"""Print what preparing, loading and scoring speech costs.

Run: python scripts/compare_speech.py FOLDER, with LJSpeech or a part of it
Cost: about half a minute on an idle core

Processor time of one thread, the best of several turns: what other processes take away only adds.
Loading is compared with a step of the tiny FastSpeech 2; a larger model waits for less of its time.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from attentions.base import Pattern
from attentions.registry import CONF, factory
from tasks.base import AttentionSlots
from tasks.cab.text_to_speech.audio import Vocoder
from tasks.cab.text_to_speech.data import TextToSpeechData
from tasks.cab.text_to_speech.distortion import align, distortions

TURNS = 3
FRAMES = 1000
BATCH_SIZE = 6
"""CAB's, of recordings."""


def seconds(call: Callable[[], object], turns: int = TURNS) -> float:
    """Of the processor, after one call that is not counted."""
    call()
    times = []
    for _ in range(turns):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return min(times)


def scoring() -> None:
    """Time the alignment and the scores of speech as long as a clip."""
    table = np.random.default_rng(0).random((FRAMES, FRAMES))
    took = seconds(lambda: align(table))
    print(f"align {FRAMES} x {FRAMES} frames: {took:.3f} s (at most 0.1)")
    clip = np.random.default_rng(0).standard_normal(22_050 * 7).astype(np.float32)
    print(f"mcd and msd of 7 s: {seconds(lambda: distortions(clip, clip[:-999], 22_050)):.3f} s")


def preparing(folder: Path) -> TextToSpeechData:
    """Time how clips are prepared, and how they are spoken again."""
    settings: dict[str, Any] = {"max_source_len": 1024, "max_target_len": 1200, "batch_size": 2}
    for needs_durations in (False, True):
        with tempfile.TemporaryDirectory() as cache:
            data = TextToSpeechData(
                source=str(folder), needs_durations=needs_durations, cache_dir=cache, **settings
            )
            begin = time.process_time()
            data.setup()
            took = time.process_time() - begin
            rows = len(data.train) + len(data.validation) + len(data.test)
            kind = "with durations, pitch and energy" if needs_durations else "log-mels alone"
            print(f"prepare {rows} clips, {kind}: {rows / took:.1f} clips/s")
    mel = data.train[torch.tensor([0])].mels[0]
    vocoder: Vocoder = data.facts["vocoder"]
    took = seconds(lambda: vocoder.waveform(mel, seed=0))
    print(f"speak {len(mel)} frames: {took:.2f} s")
    return data


def loading(data: TextToSpeechData) -> None:
    """Time how batches are read, beside steps on them."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["task=text_to_speech_fastspeech2/tiny", "attention=softmax"]
        config = compose("train", [*overrides, "pattern=noncausal_self"])
    attention = factory(config.attention)
    tiny: TextToSpeechData = instantiate(config.task.data)
    tiny.setup()
    for name, rows, size in (
        ("generated", tiny, config.task.data.batch_size),
        ("recordings", data, min(BATCH_SIZE, len(data.train))),
    ):
        build = instantiate(config.task.model, _partial_=True)
        model = build(slots=AttentionSlots(attention, Pattern(config.pattern)), **rows.facts)
        optimizer = torch.optim.Adam(model.parameters())
        numbers = torch.arange(size)
        batch = rows.train[numbers]

        def step(model: Any, batch: Any, optimizer: torch.optim.Optimizer) -> None:
            optimizer.zero_grad()
            model.loss(batch)[0].backward()
            optimizer.step()

        load = seconds(partial(rows.train.__getitem__, numbers), 10)
        took = seconds(partial(step, model, batch, optimizer), 10)
        print(
            f"{name}, {size} rows: load {1e3 * load:.2f} ms, tiny step {1e3 * took:.1f} ms, "
            f"{load / (load + took):.1%} of the time (at most 10%)"
        )


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description="What speech costs.")
    parser.add_argument("folder", type=Path, help="of LJSpeech")
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    scoring()
    loading(preparing(folder))


if __name__ == "__main__":
    main()
