"""Text to speech in one pass: FastSpeech 2.

Source and departures: see `tasks.cab.text_to_speech.task` and `tasks.backbones.fastspeech2`.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import Pattern
from tasks.backbones.fastspeech2 import FastSpeech2, Spoken
from tasks.cab.text_to_speech.data import Batch
from tasks.cab.text_to_speech.task import TextToSpeech


class FastSpeech2Speech(TextToSpeech):
    """Say a text in one pass, trained on L1 of the frames and MSE of duration, pitch and energy.

    `mel_loss` is that of frames made with the durations, pitch and energy of the recording.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF})
    backbone: ClassVar[str] = "FastSpeech2"
    network = FastSpeech2
    model: FastSpeech2

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Means over frames and over tokens; as in fairseq, each batch counts alike."""
        spoken = self._told(batch)
        is_frame, is_token = ~batch.mel_padding, ~batch.token_padding
        loss = F.l1_loss(spoken.mels[is_frame].to(batch.mels.dtype), batch.mels[is_frame])
        log_durations = (batch.durations.to(batch.mels.dtype) + 1).log()
        for predicted, expected in (
            (spoken.log_durations, log_durations),
            (spoken.pitch, batch.pitch),
            (spoken.energy, batch.energy),
        ):
            loss = loss + F.mse_loss(predicted[is_token].to(expected.dtype), expected[is_token])
        return loss, len(batch.tokens)

    def mel_errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `TextToSpeech`."""
        errors = (self._told(batch).mels.double() - batch.mels).abs()
        is_frame = ~batch.mel_padding
        return errors[is_frame].sum(), is_frame.sum() * batch.mels.shape[-1]

    @torch.no_grad()
    def synthesise(self, batch: Batch) -> list[Tensor]:
        """See `TextToSpeech`; each row has one frame at least."""
        spoken = self.model(batch.tokens, batch.token_padding)
        return [mels[~padding] for mels, padding in zip(spoken.mels, spoken.padding, strict=True)]

    def _told(self, batch: Batch) -> Spoken:
        """With the durations, pitch and energy of the recording."""
        return self.model(
            batch.tokens,
            batch.token_padding,
            durations=batch.durations,
            pitch=batch.pitch,
            energy=batch.energy,
            num_frames=batch.mels.shape[1],
        )
