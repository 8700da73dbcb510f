"""From operators to the calls a person would write: each pass replaces only what it proves to be equal."""

from graphclone.pytorch.recognition.activations import recognise_activations
from graphclone.pytorch.recognition.attentions import recognise_attention
from graphclone.pytorch.recognition.linears import recognise_linears
from graphclone.pytorch.recognition.movement import simplify_movement
from graphclone.pytorch.recognition.norms import recognise_norms
from graphclone.pytorch.recognition.rewriting import Rewriter
from graphclone.pytorch.recording import Recording

PASSES = (
    simplify_movement,
    recognise_linears,
    recognise_norms,
    recognise_activations,
    simplify_movement,
    recognise_attention,
    simplify_movement,
)


def recognise(recording: Recording) -> None:
    """Run every pass over a recorded graph, in place."""
    rewriter = Rewriter(recording.graph, recording.tables)
    for step in PASSES:
        step(rewriter)


__all__ = ["PASSES", "recognise"]
