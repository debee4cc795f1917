"""Text to speech a few frames at a time: Transformer-TTS.

Source and departures: see `tasks.cab.text_to_speech.task` and `tasks.backbones.transformer_tts`. As
in fairseq the frames of a recording behind its last whole step are left out.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import Pattern
from tasks.backbones.transformer_tts import Spoken, TransformerTts
from tasks.base import AttentionSlots
from tasks.cab.text_to_speech.data import Batch
from tasks.cab.text_to_speech.task import TextToSpeech
from tasks.data import check_counts


class TransformerSpeech(TextToSpeech):
    """Say a text step by step, trained on L1 and MSE of the frames and on where to stop.

    `mel_loss` is that of each step from the recording's steps before it.

    Args:
        slots: Give the attentions.
        max_target_len: Of the data, as the next two: most frames of a recording.
        pitch_range: Not used.
        energy_range: Not used.
        frames_per_step: How many frames are said at a time.
        max_steps: Most steps of what is said; None for those of `max_target_len`.
        stop_weight: How much more the last step counts than another in the loss of the stop.
        stop_threshold: The probability of a stop above which nothing more is said.
        **given: See `TextToSpeech`.

    Raises:
        ValueError: If recordings may have more than `max_steps`, or a count is not positive.
    """

    patterns = frozenset({Pattern.NONCAUSAL_SELF, Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS})
    backbone: ClassVar[str] = "Transformer-TTS"
    network = TransformerTts
    model: TransformerTts

    def __init__(
        self,
        slots: AttentionSlots,
        *,
        max_target_len: int,
        pitch_range: tuple[float, float],
        energy_range: tuple[float, float],
        frames_per_step: int = 4,
        max_steps: int | None = None,
        stop_weight: float = 5.0,
        stop_threshold: float = 0.5,
        **given: Any,
    ) -> None:
        check_counts(frames_per_step=frames_per_step, max_steps=max_steps)
        longest = max(max_target_len // frames_per_step, 1)
        max_steps = longest if max_steps is None else max_steps
        if max_steps < longest:
            raise ValueError(
                f"max_steps must be at least {longest}, for recordings of {max_target_len} frames, "
                f"got {max_steps}"
            )
        super().__init__(slots, max_steps=max_steps, frames_per_step=frames_per_step, **given)
        self.frames_per_step = frames_per_step
        self.stop_weight = stop_weight
        self.stop_threshold = stop_threshold

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """The sum of the means; as in fairseq, each batch counts alike."""
        steps, padding = in_steps(batch, self.frames_per_step)
        spoken = self._told(batch, steps, padding)
        is_step = ~padding
        expected, loss = steps[is_step], steps.new_zeros(())
        for frames in (spoken.first, spoken.frames):
            said = frames[is_step].to(expected.dtype)
            loss = loss + F.l1_loss(said, expected) + F.mse_loss(said, expected)
        is_last = F.pad(padding[:, 1:], (0, 1), value=True)  # behind it there is padding
        stop = F.binary_cross_entropy_with_logits(
            spoken.stop[is_step].to(expected.dtype),
            is_last[is_step].to(expected.dtype),
            pos_weight=expected.new_tensor(self.stop_weight),
        )
        return loss + stop, len(batch.tokens)

    def mel_errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `TextToSpeech`."""
        steps, padding = in_steps(batch, self.frames_per_step)
        errors = (self._told(batch, steps, padding).frames.double() - steps).abs()
        return errors[~padding].sum(), (~padding).sum() * steps.shape[-1]

    def synthesise(self, batch: Batch) -> list[Tensor]:
        """See `TextToSpeech`; what does not stop is cut at `max_steps`."""
        steps, num_steps = self.model.write(
            batch.tokens, batch.token_padding, seeds=batch.rows, threshold=self.stop_threshold
        )
        return self._as_frames(steps, num_steps.tolist())

    def recorded(self, batch: Batch) -> list[Tensor]:
        """See `TextToSpeech`; in whole steps."""
        steps, padding = in_steps(batch, self.frames_per_step)
        return self._as_frames(steps, (~padding).sum(dim=1).tolist())

    def _told(self, batch: Batch, steps: Tensor, padding: Tensor) -> Spoken:
        """With the steps before each. What the prenet drops is drawn anew in training only."""
        seeds = None if self.training else batch.rows
        return self.model(batch.tokens, steps, batch.token_padding, padding, seeds=seeds)

    def _as_frames(self, steps: Tensor, lengths: list[int]) -> list[Tensor]:
        frames = steps.unflatten(-1, (self.frames_per_step, -1)).flatten(1, 2)
        return [
            row[: self.frames_per_step * length]
            for row, length in zip(frames, lengths, strict=True)
        ]


def in_steps(batch: Batch, frames_per_step: int) -> tuple[Tensor, Tensor]:
    """The recordings in steps (B, S, K F), and where these are padding, bool (B, S).

    A recording shorter than one step has one, filled up with zeros.
    """
    num_steps = ((~batch.mel_padding).sum(dim=1) // frames_per_step).clamp(min=1)
    longest = max(batch.mels.shape[1] // frames_per_step, 1)
    missing = max(frames_per_step * longest - batch.mels.shape[1], 0)
    mels = F.pad(batch.mels, (0, 0, 0, missing))[:, : frames_per_step * longest]
    steps = mels.unflatten(1, (longest, frames_per_step)).flatten(2)
    padding = torch.arange(longest, device=mels.device) >= num_steps[:, None]
    return steps.masked_fill(padding[..., None], 0.0), padding
