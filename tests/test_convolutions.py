"""How much signal is wanted is what the convolutions before the first product leave of it."""

from __future__ import annotations

import onnx_graphsurgeon as gs
import pytest

from graphclone.convolutions import samples, stride, windows


def chain(*given, shape=(2, 4, "t")):
    """An input, and the convolutions (kernel, attributes) or operators (name) behind it, one after the other."""
    first = tensor = gs.Variable("x", shape=list(shape))
    for k, one in enumerate(given):
        out = gs.Variable(f"y{k}")
        if isinstance(one, str):
            gs.Node(one, inputs=[tensor], outputs=[out])
        else:
            kernel, attributes = one
            weight = gs.Variable(f"w{k}", shape=[6, 4, kernel] if len(shape) == 3 else [6, 4, kernel, kernel])
            gs.Node("Conv", inputs=[tensor, weight], outputs=[out], attrs=attributes)
        tensor = out
    return first


def test_windows_reach_by_dilation_and_padding_up_to_the_first_product():
    first = chain((10, {"strides": [5]}), "Gelu", (3, {"dilations": [2], "pads": [1, 1]}), "MatMul", (7, {}))
    assert windows(first) == ((5, 10), (1, 3))


def test_a_tensor_that_meets_itself_is_gone_through_once():
    first = chain((3, {"strides": [2]}))
    (node,) = first.outputs
    gs.Node("Add", inputs=[node.outputs[0], node.outputs[0]], outputs=[gs.Variable("sum")])
    assert windows(first) == ((2, 3),)


@pytest.mark.parametrize("length", [1, 2, 17])
def test_samples_are_the_fewest_that_leave_so_many_steps(length):
    given = ((5, 10), (4, 4), (2, 3))

    def left(signal):
        for step, reach in given:
            signal = (signal - reach) // step + 1
        return signal

    assert (left(samples(length, given)), left(samples(length, given) - 1)) == (length, length - 1)


def test_the_side_of_patches_is_the_largest_stride_that_reads_the_image():
    assert stride(chain((4, {"strides": [4, 2]}), shape=(1, 4, "h", "w"))) == 4
    assert stride(chain("Cast")) == 1
