"""Generated documents that need every attention of an encoder-decoder.

A document is a headline of three topics and, in random order, sentences of one word each: for each
of four or five topics who it is about, and what happened to that one. Its summary names whom the
headline's topics are about, in its order, and then what happened to each:

    document  topic4 topic1 topic6  actor7event2 topic1actor3 topic4actor7 actor5event2 ...
    summary   actor7 actor3 actor5  event2 event6 event2

Without cross-attention nothing of the document is known. Whom topic4 is about must be found by the
encoder: the decoder, which reads topic4 in the headline, reads only once in its one layer. What
happened to actor7 the decoder can look up by itself, but only by its self-attention does it know
that actor7, three tokens earlier, is due.
"""

import torch
from tokenizers import Tokenizer, models
from torch import Tensor

from tasks.cab.summarization.documents import END, SPECIAL, Ragged

HEADLINE, MIN_TOPICS, MAX_TOPICS = 3, 4, 5
TOPICS = ACTORS = EVENTS = 8
LONGEST = HEADLINE + 2 * MAX_TOPICS + 1, 2 * HEADLINE + 1
"""Tokens of a document and of a summary."""


def generated_tokenizer() -> Tokenizer:
    """One number for each mark and word."""
    topics, actors, events = (
        [f"{kind}{number}" for number in range(count)]
        for kind, count in (("topic", TOPICS), ("actor", ACTORS), ("event", EVENTS))
    )
    about = [topic + actor for topic in topics for actor in actors]
    happened = [actor + event for actor in actors for event in events]
    words = [*SPECIAL, *topics, *actors, *events, *about, *happened]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}))
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def generate(num_rows: int, seed: int) -> tuple[Ragged, Ragged]:
    """Documents and summaries as the module describes them, numbered as `generated_tokenizer`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> Tensor:
        return torch.rand(num_rows, size, generator=generator)

    first_topic = len(SPECIAL)
    first_actor = first_topic + TOPICS
    first_event = first_actor + ACTORS
    first_about = first_event + EVENTS
    first_happened = first_about + TOPICS * ACTORS
    # All (rows, MAX_TOPICS); no two topics of a document are about the same actor.
    topics = draw(TOPICS).argsort(dim=1)[:, :MAX_TOPICS]
    actors = draw(ACTORS).argsort(dim=1)[:, :MAX_TOPICS]
    events = (draw(MAX_TOPICS) * EVENTS).long()
    num_topics = MIN_TOPICS + (draw(1) * (MAX_TOPICS - MIN_TOPICS + 1)).long()
    is_absent = (torch.arange(MAX_TOPICS) >= num_topics).repeat(1, 2)
    about = first_about + topics * ACTORS + actors
    happened = first_happened + actors * EVENTS + events
    order = draw(2 * MAX_TOPICS).argsort(dim=1)
    sentences = torch.cat([about, happened], dim=1).gather(1, order)

    end = torch.full((num_rows, 1), SPECIAL.index(END))
    headline = slice(0, HEADLINE)
    source = torch.cat([first_topic + topics[:, headline], sentences, end], dim=1)
    is_gap = torch.zeros_like(source, dtype=torch.bool)
    is_gap[:, HEADLINE:-1] = is_absent.gather(1, order)
    summary = [first_actor + actors[:, headline], first_event + events[:, headline], end]
    target = torch.cat(summary, dim=1)
    return Ragged.of(source, is_gap), Ragged.of(target, torch.zeros_like(target).bool())
