"""Text to speech, CAB's TTS: what its two backbones share, which is how they are trained and heard.

Source: Zhang et al., CAB, ICML 2023, arXiv:2210.07661, and fairseq, which it runs.
Departs from CAB: beside the distortion for each synthesised frame, which speech that goes on too
long makes smaller, stand those for each step of the alignment, the error of the durations, and the
error of the frames where the recording is given; the vocoder's first phases are seeded, by the row.
In: a text (B, N). Out: normalised log-mel frames (T, F) of each row, and speech made of them.
"""

import wave
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from tasks.base import AttentionSlots, Task
from tasks.cab.text_to_speech.audio import Vocoder
from tasks.cab.text_to_speech.data import Batch
from tasks.cab.text_to_speech.distortion import distortions
from tasks.metrics.mean import Mean, Means

HEARD = ("mcd", "msd", "mcd_path", "msd_path", "duration_error")
"""The scores of what is synthesised."""
NUM_SAMPLES = 3
"""Rows that are written to be listened to."""


class TextToSpeech(Task):
    """Say a text.

    Logs `mel_loss`, the mean absolute error of the normalised frames where the model is told what
    it is told in training. The distortions are those of the speech that it synthesises from the
    text alone, in `predict_step`, to the speech that the same vocoder makes of the recording:

    - `mcd` and `msd`, the cost of the best alignment, over the frames that were synthesised;
    - `mcd_path` and `msd_path`, the same over the steps of that alignment;
    - `duration_error`, by how many frames the rows are too long or too short, over the frames of
      the recordings.

    Args:
        slots: Give the attentions.
        vocoder: Makes speech of frames.
        lr: Of Adam at the end of the warm-up.
        warmup_steps: Optimizer steps of linear warm-up, before the inverse square root.
        betas: Of Adam.
        eps: Of Adam.
        speaks_in_validation: Whether validation synthesises too, so that its `mcd` can select the
            checkpoint.
        **sizes: Of the `network`, those that the data know with them.
    """

    network: ClassVar[type[nn.Module]]
    """Its backbone."""
    directions: ClassVar = {"mel_loss": "lower", **dict.fromkeys(HEARD, "lower")}

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        vocoder: Vocoder,
        lr: float,
        warmup_steps: int,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        speaks_in_validation: bool = False,
        **sizes: Any,
    ) -> None:
        super().__init__(slots)
        self.model = self.network(slots, **sizes)
        self.vocoder = vocoder
        self.warmup_steps = warmup_steps
        self.optimizer_settings = {"lr": lr, "betas": tuple(betas), "eps": eps}
        self.speaks_in_validation = speaks_in_validation
        self.mel_loss = Mean()
        self.heard = Means(HEARD)
        self.samples: list[tuple[int, np.ndarray, np.ndarray]] = []

    def mel_errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sum of the absolute errors of the frames, and of how many values it is the sum."""
        raise NotImplementedError

    def synthesise(self, batch: Batch) -> list[Tensor]:
        """The frames (T, F) of each row, from its text alone."""
        raise NotImplementedError

    def recorded(self, batch: Batch) -> list[Tensor]:
        """The frames (T, F) of each row that it is compared with."""
        return [mels[~padding] for mels, padding in zip(batch.mels, batch.mel_padding, strict=True)]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the errors of the frames, and listen if asked to."""
        self.test_step(batch, batch_idx)
        if self.speaks_in_validation:
            self._listen(batch)
            for name in HEARD:
                self.log(name, self.heard[name], on_step=False, on_epoch=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the errors of the frames."""
        self.mel_loss.update(*self.mel_errors(batch))
        self.log("mel_loss", self.mel_loss, on_step=False, on_epoch=True)

    def on_predict_epoch_start(self) -> None:
        """Forget what was heard before."""
        self.samples = []
        self.heard.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Score what is synthesised."""
        heard = self._listen(batch)
        self.samples += heard[: NUM_SAMPLES - len(self.samples)]

    def measure(self) -> list[dict[str, Any]]:
        """The scores of what was synthesised."""
        return self.heard.measured(self.directions)

    def write_samples(self, folder: Path) -> None:
        """The first rows as WAV files: what was synthesised, and the recording's re-synthesis."""
        for row, reference, synthesised in self.samples:
            for kind, waveform in (("reference", reference), ("synthesised", synthesised)):
                with wave.open(str(folder / f"{row:05d}-{kind}.wav"), "wb") as file:
                    file.setnchannels(1)
                    file.setsampwidth(2)
                    file.setframerate(self.vocoder.sample_rate)
                    file.writeframes((waveform.clip(-1, 1) * 32767).astype("<i2").tobytes())

    def configure_optimizers(self) -> Any:
        """Adam with linear warm-up, then the inverse square root of the step."""
        groups = self.parameter_groups(self.optimizer_settings["lr"])
        optimizer = torch.optim.Adam(groups, fused=True, **self.optimizer_settings)
        warmup = self.warmup_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, (warmup / (step + 1)) ** 0.5)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _listen(self, batch: Batch) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Score what is synthesised; each row with its two waveforms, the recording's first."""
        heard: list[tuple[int, np.ndarray, np.ndarray]] = []
        pairs = zip(self.recorded(batch), self.synthesise(batch), strict=True)
        for row, (recorded, spoken) in zip(batch.rows.tolist(), pairs, strict=True):
            too_much = abs(len(spoken) - len(recorded))
            self.heard["duration_error"].update(float(too_much), len(recorded))
            if not spoken.isfinite().all():  # no vocoder makes speech of it
                for name in HEARD[:4]:
                    self.heard[name].update(torch.nan, 1)
                continue
            # As in CAB the phases are drawn for each: one draw for both would make alike what has
            # the same length.
            reference = self.vocoder.waveform(recorded, seed=2 * row)
            waveform = self.vocoder.waveform(spoken, seed=2 * row + 1)
            found = distortions(reference, waveform, self.vocoder.sample_rate)
            self.heard["mcd"].update(found.mcd, found.synthesised_frames)
            self.heard["msd"].update(found.msd, found.synthesised_frames)
            self.heard["mcd_path"].update(found.mcd, found.mcd_path)
            self.heard["msd_path"].update(found.msd, found.msd_path)
            heard.append((row, reference, waveform))
        return heard
