"""The ternary layers on numbers worked out by hand: forward, gradients, the warm-up's mixture, norms, kept codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitnet_bench.ternary import kernel, linear, ops
from bitnet_bench.ternary.linear import (
    LARGEST_EXACT_K,
    BitLinear,
    CodesLinear,
    InnerNorm,
    find_ternary_targets,
    integer_matmul,
    make_trainable_ternary,
)
from bitnet_bench.ternary.ops import PanelsLinear
from bitnet_bench.ternary.packing import count_codes, pack
from bitnet_bench.ternary.panels import panel_shape, to_panels

MASTERS = [[1.5, -0.5, 1.0], [0.0, 2.0, -1.0]]
"""Six weights whose mean size is 1, so gamma is 1; -0.5 is half way and goes to the even 0, 1.5 to 2 and so to 1."""
CODES = [[1, 0, 1], [0, 1, -1]]
ROW = [127.0, 2.5, -3.4]
"""Activations whose largest is 127, so a step is 1; 2.5 is half way and goes to the even 2."""
QUANTIZED = [127, 2, -3]
PRODUCT = [124.0, 5.0]
"""127 - 3, and 2 + 3."""


def make_layer(gamma: float = 1.0, bias: list[float] | None = None) -> BitLinear:
    layer = BitLinear(3, 2, bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(gamma * torch.tensor(MASTERS))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


@pytest.fixture(params=["eager", "as torch.compile traces it", "without the kernel"])
def every_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test on each implementation of the layer that a CPU can run; no argument chooses between them."""
    if request.param == "as torch.compile traces it":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    elif request.param == "without the kernel":
        monkeypatch.setattr(kernel, "load_library", lambda: None)
    return str(request.param)


@pytest.mark.usefixtures("every_path")
@pytest.mark.parametrize(("gamma", "step"), [(1.0, 1.0), (0.25, 2.0), (8.0, 0.5)])
def test_a_forward_by_hand(gamma: float, step: float) -> None:
    """Codes times integers times both scales, plus the bias; leading dimensions are kept."""
    x = step * torch.tensor(ROW)
    expected = gamma * step * torch.tensor(PRODUCT)
    assert make_layer(gamma)(x[None]).tolist() == [expected.tolist()]
    assert (
        make_layer(gamma, [0.5, -1.0])(x.expand(2, 1, 3)).tolist()
        == [[(expected + torch.tensor([0.5, -1.0])).tolist()]] * 2
    )


@pytest.mark.usefixtures("every_path")
@pytest.mark.parametrize(("gamma", "step"), [(1.0, 1.0), (0.25, 2.0)])
def test_gradients_by_hand(gamma: float, step: float) -> None:
    """Both quantizers are passed straight through: dx = dy (gamma codes), dw = dy^T (step q), db = dy."""
    layer = make_layer(gamma, [0.0, 0.0])
    x = (step * torch.tensor([ROW])).requires_grad_()
    layer(x).backward(torch.tensor([[1.0, 10.0]]))
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert x.grad.tolist() == [[gamma * 1.0, gamma * 10.0, gamma * -9.0]]
    assert layer.weight.grad.tolist() == [[step * 127, step * 2, step * -3], [step * 1270, step * 20, step * -30]]
    assert layer.bias.grad is not None
    assert layer.bias.grad.tolist() == [1.0, 10.0]


@pytest.mark.usefixtures("every_path")
@pytest.mark.parametrize("needed", ["x", "weight"])
def test_one_gradient_alone_is_the_same(needed: str) -> None:
    """A frozen weight, or an input without gradients, changes nothing about the other gradient."""
    layer = make_layer()
    layer.weight.requires_grad_(needed == "weight")
    x = torch.tensor([ROW], requires_grad=needed == "x")
    layer(x).backward(torch.tensor([[1.0, 10.0]]))
    if needed == "x":
        assert x.grad is not None
        assert x.grad.tolist() == [[1.0, 10.0, -9.0]]
        assert layer.weight.grad is None
    else:
        assert layer.weight.grad is not None
        assert layer.weight.grad.tolist() == [[127.0, 2.0, -3.0], [1270.0, 20.0, -30.0]]
        assert x.grad is None


@pytest.mark.usefixtures("every_path")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_have_the_dtype_of_what_they_belong_to(dtype: torch.dtype) -> None:
    """Narrow activations over float32 masters: the output and dx are narrow, dw is float32."""
    layer = make_layer()
    x = torch.tensor([[127.0, 2.5, -3.0]], dtype=dtype, requires_grad=True)
    y = layer(x)
    assert y.dtype == dtype
    y.sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert x.grad.dtype == dtype
    assert layer.weight.grad.dtype == torch.float32
    assert x.grad.tolist() == [[1.0, 1.0, 0.0]]
    assert layer.weight.grad.tolist() == [[127.0, 2.0, -3.0]] * 2


@pytest.mark.usefixtures("every_path")
def test_masters_may_be_narrow_under_float32_activations() -> None:
    """The gradient of bfloat16 masters is bfloat16, that of the float32 input float32."""
    layer = make_layer().bfloat16()
    x = torch.tensor([ROW], requires_grad=True)
    y = layer(x)
    assert y.dtype == torch.float32
    assert y.tolist() == [PRODUCT]
    y.sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert (x.grad.dtype, layer.weight.grad.dtype) == (torch.float32, torch.bfloat16)


def test_half_ternary_is_half_way_between_plain_and_ternary() -> None:
    """At a share of 0.5 each value is the mean of itself and its quantized value; gradients see the mixed values."""
    layer = make_layer(bias=[1.0, 2.0])
    layer.ternary_share = 0.5
    x = torch.tensor([ROW], requires_grad=True)
    mixed_x, mixed_w = [127.0, 2.25, -3.2], [[1.25, -0.25, 1.0], [0.0, 1.5, -1.0]]
    y = layer(x)
    assert y.tolist() == [pytest.approx([127 * 1.25 - 2.25 * 0.25 - 3.2 + 1, 2.25 * 1.5 + 3.2 + 2])]
    y.backward(torch.tensor([[1.0, 10.0]]))
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert x.grad.tolist() == [pytest.approx([1.25, 14.75, -9.0])]
    assert layer.weight.grad.tolist() == [pytest.approx(mixed_x), pytest.approx([10 * v for v in mixed_x])]
    assert torch.tensor(mixed_w).shape == layer.weight.shape


def test_a_share_of_a_quarter_uses_both_scales() -> None:
    """x + (Q(x) - x) / 4 and w + (T(w) - w) / 4 where neither scale is 1."""
    layer = make_layer(gamma=0.5)
    layer.ternary_share = 0.25
    x = 2 * np.array(ROW)
    mixed_x = x + (2 * np.array(QUANTIZED) - x) / 4
    w = 0.5 * np.array(MASTERS)
    mixed_w = w + (0.5 * np.array(CODES) - w) / 4
    assert layer(torch.tensor(x[None], dtype=torch.float32))[0].tolist() == pytest.approx((mixed_w @ mixed_x).tolist())


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_mixture_keeps_the_dtype(share: float) -> None:
    """A bfloat16 layer on bfloat16 activations is bfloat16 throughout; at a share of 0 it is a plain layer."""
    layer = make_layer().bfloat16()
    layer.ternary_share = share
    x = torch.tensor([[127.0, 2.5, -3.0]]).bfloat16()
    y = layer(x)
    assert y.dtype == torch.bfloat16
    if share == 0.0:
        assert torch.equal(y, nn.functional.linear(x, layer.weight))


def test_codes_are_computed_anew_unless_they_are_kept() -> None:
    """By default each forward ternarizes; with `keeps_codes` once per version of the weights."""
    layer, x = make_layer(), torch.tensor([ROW])
    layer(x)
    assert layer._stored_codes is None
    layer.keeps_codes = True
    layer(x)
    kept = layer._stored_codes
    assert kept is not None
    layer(x)
    assert layer._stored_codes is kept
    with torch.no_grad():
        layer.weight.mul_(2)  # a change in place is a new version
    assert layer(x).tolist() == [[248.0, 10.0]]
    assert layer._stored_codes is not kept


def test_kept_codes_are_used_until_they_are_forgotten() -> None:
    """Codes that were stored for these weights are what the forward multiplies; forgotten, they are computed again."""
    layer, x = make_layer(), torch.tensor([ROW])
    layer.keeps_codes = True
    layer.store_codes(torch.tensor([[0, 0, 1], [1, 0, 0]], dtype=torch.int8), torch.tensor(2.0))
    assert layer(x).tolist() == [[-6.0, 254.0]]
    layer.forget_codes()
    assert layer(x).tolist() == [PRODUCT]
    layer.store_codes(torch.tensor([[0, 0, 1], [1, 0, 0]], dtype=torch.int8), torch.tensor(2.0))
    layer.keeps_codes = False
    assert layer(x).tolist() == [PRODUCT]


def test_a_compiled_layer_takes_kept_codes_and_stores_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile cannot see the version of the weights: it takes what `store_codes` left, or ternarizes."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    layer, x = make_layer(), torch.tensor([ROW])
    layer.keeps_codes = True
    assert layer(x).tolist() == [PRODUCT]
    assert layer._stored_codes is None
    layer.store_codes(torch.tensor([[0, 0, 1], [1, 0, 0]]).bfloat16(), torch.tensor(2.0))
    assert layer(x).tolist() == [[-6.0, 254.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_inner_norm_by_hand(dtype: torch.dtype) -> None:
    """3 and 4 have the mean square 12.5: with an epsilon of 12.5 they are divided by 5; -15 and 5 are by 11.7."""
    x = torch.tensor([[3.0, 4.0], [-15.0, 5.0]], dtype=dtype)
    plain = InnerNorm(None, 12.5)(x)
    assert plain.dtype == dtype
    assert plain.tolist() == [pytest.approx(row, rel=0.01) for row in ([0.6, 0.8], [-15 / 137.5**0.5, 5 / 137.5**0.5])]
    weighted = InnerNorm(torch.tensor([10.0, 100.0]), 12.5)(x)
    assert weighted.dtype == dtype
    assert weighted.tolist() == [
        pytest.approx(row, rel=0.01) for row in ([6.0, 80.0], [-150 / 137.5**0.5, 500 / 137.5**0.5])
    ]
    assert not InnerNorm(torch.ones(2), 1.0).state_dict()


def test_an_inner_norm_is_computed_in_float32() -> None:
    """Squares of 300 overflow float16; the norm of 300 and 400 is 0.85 and 1.13 all the same."""
    y = InnerNorm(None, 0.0)(torch.tensor([[300.0, 400.0]], dtype=torch.float16))
    assert y.tolist() == [pytest.approx([300 / 125000**0.5, 400 / 125000**0.5], rel=1e-3)]


def deployed(
    kind: str, bias: list[float] | None, norm: tuple[list[float] | None, float] | None, gamma: float = 1.0
) -> nn.Module:
    """Return the layer of CODES as int8 codes or in panels."""
    codes = torch.tensor(CODES, dtype=torch.int8)
    given = None if bias is None else torch.tensor(bias)
    weight = None if norm is None or norm[0] is None else torch.tensor(norm[0])
    if kind == "codes":
        return CodesLinear(
            codes, torch.tensor([gamma], dtype=torch.float64), given, norm and InnerNorm(weight, norm[1])
        )
    return PanelsLinear(to_panels(codes), gamma, (2, 3), given, norm and (weight, norm[1]))


@pytest.mark.parametrize("kind", ["codes", "panels"])
@pytest.mark.parametrize("without_kernel", [False, True])
def test_a_deployed_layer_by_hand(kind: str, without_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The product, its scales, the bias, any leading dimensions, with the kernel and without."""
    if without_kernel:
        monkeypatch.setattr(kernel, "load_library", lambda: None)
    x = torch.tensor(ROW)
    assert deployed(kind, None, None)(x[None]).tolist() == [PRODUCT]
    assert deployed(kind, [0.5, -1.0], None, gamma=0.25)(2 * x.expand(2, 1, 3)).tolist() == [[[62.5, 1.5]]] * 2
    assert deployed(kind, None, None)(torch.zeros(0, 3)).shape == (0, 2)


@pytest.mark.parametrize("kind", ["codes", "panels"])
@pytest.mark.parametrize(("weight", "epsilon"), [(None, 4.0), ([1.0, 2.0, 0.5], 4.0), ([1.0, 2.0, 0.5], 0.0)])
def test_a_deployed_layer_with_a_norm_by_hand(kind: str, weight: list[float] | None, epsilon: float) -> None:
    """The input is normalised before it is quantized, with the epsilon under the root and the weight after it."""
    x = np.array([2.0, -4.0, 6.0])
    normed = x / np.sqrt((x**2).mean() + epsilon) * np.array(weight or [1.0, 1.0, 1.0])
    step = np.abs(normed).max() / 127
    expected = np.array(CODES) @ np.round(normed / step) * step
    got = deployed(kind, None, (weight, epsilon))(torch.tensor(x[None], dtype=torch.float32))
    assert got[0].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("kind", ["codes", "panels"])
def test_a_deployed_layer_saves_nothing_and_knows_its_size(kind: str) -> None:
    """It is made from a checkpoint and never saved as one; it has the sizes of a linear layer and narrow outputs."""
    layer: Any = deployed(kind, [0.5, -1.0], ([1.0, 1.0, 1.0], 1e-5))
    assert not layer.state_dict()
    assert (layer.out_features, layer.in_features) == (2, 3)
    assert deployed(kind, [0.5, -1.0], None)(torch.tensor([ROW]).bfloat16()).dtype == torch.bfloat16
    assert [tuple(buffer.shape) for name, buffer in layer.named_buffers() if name == "bias"] == [(2,)]


def test_codes_have_a_float32_scale() -> None:
    """A scale of any shape and dtype becomes a float32 scalar."""
    layer = deployed("codes", None, None, gamma=0.5)
    assert (layer.gamma.dtype, layer.gamma.shape) == (torch.float32, ())


@pytest.mark.skipif(kernel.load_library() is None, reason="the kernel was not built here")
@pytest.mark.parametrize("built", [True, False])
def test_a_cpu_uses_the_kernel_where_it_was_built(built: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both paths give the same bits, so only what is called shows which one runs; nothing is asked of no rows."""
    called = []
    for name in ("quantize", "ternarize", "scale_codes", "quantize_rows"):
        real = getattr(kernel, name)

        def spy(*given: Any, _real: Any = real, _name: str = name) -> Any:
            called.append(_name)
            return _real(*given)

        monkeypatch.setattr(kernel, name, spy)
    if not built:
        monkeypatch.setattr(kernel, "load_library", lambda: None)
    x = torch.tensor([ROW], requires_grad=True)
    make_layer()(x).sum().backward()
    deployed("panels", None, None)(torch.tensor([ROW]))
    expected = ["ternarize", "quantize", "scale_codes", "scale_codes", "quantize_rows"]
    assert called == (expected if built else [])
    called.clear()
    make_layer()(torch.zeros(0, 3))
    assert called == (["ternarize"] if built else [])


@pytest.mark.parametrize("vnni", [True, False])
def test_a_cpu_with_vnni_multiplies_integers(vnni: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's answer decides: integer products where it says yes, float32 ones where not, with equal results."""
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    called = []
    real = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda *given: called.append(1) or real(*given))
    q, codes = torch.tensor([QUANTIZED], dtype=torch.int8), torch.tensor(CODES, dtype=torch.int8)
    assert integer_matmul(q, codes).tolist() == [PRODUCT]
    assert len(called) == vnni
    assert make_layer()(torch.tensor([ROW])).tolist() == [PRODUCT]
    assert len(called) == 2 * vnni


@pytest.mark.parametrize("vnni", [True, False])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (2, 1, 1)])
def test_a_row_that_is_too_long_is_refused_in_any_batch(
    vnni: bool, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the last dimension that is summed over; both sizes are named."""
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    layer = CodesLinear(torch.zeros(1, LARGEST_EXACT_K + 1, dtype=torch.int8), torch.tensor(1.0), None)
    with pytest.raises(ValueError, match="in_features 131073 exceeds 131072"):
        layer(torch.ones(*shape, LARGEST_EXACT_K + 1))


class Body(nn.Module):
    """A model of two layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 5)

    def get_output_embeddings(self) -> nn.Module:
        """Return the head."""
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        """Return what the head says."""
        y: Tensor = self.head(self.second(self.first(x)))
        return y


def test_layers_to_keep_stay_plain() -> None:
    """`modules_to_not_convert` is heeded besides the head; a model that knows no head has all its layers converted."""
    assert find_ternary_targets(Body()).keys() == {"first", "second"}
    assert find_ternary_targets(Body(), ["second"]).keys() == {"first"}
    assert find_ternary_targets(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))).keys() == {"0", "2"}
    model = Body()
    assert make_trainable_ternary(model, ["second"]) is model
    assert [type(layer) for layer in (model.first, model.second, model.head)] == [BitLinear, nn.Linear, nn.Linear]


@pytest.mark.parametrize("field", range(4))
@pytest.mark.parametrize(("code", "wanted"), [(-1, (4, 0, 0)), (0, (3, 1, 0)), (1, (3, 0, 1))])
def test_codes_are_counted_in_every_field(field: int, code: int, wanted: tuple[int, int, int]) -> None:
    """A byte of three -1 and one other code, wherever it stands; two such bytes count twice."""
    byte = (code + 1) << (2 * field)
    assert count_codes(torch.tensor([byte], dtype=torch.uint8)) == wanted
    assert count_codes(torch.tensor([[byte], [byte]], dtype=torch.uint8)) == tuple(2 * count for count in wanted)
    with pytest.raises(ValueError, match="holds 3"):
        count_codes(torch.tensor([byte, 3 << (2 * field)], dtype=torch.uint8))


def test_counted_codes_are_those_that_were_packed() -> None:
    """Five of each, and -1 once more."""
    codes = torch.tensor([-1, 0, 1] * 5 + [-1], dtype=torch.int8).reshape(16, 1)
    assert count_codes(pack(codes)) == (6, 5, 5)


@pytest.mark.parametrize(
    ("rows", "columns", "shape"), [(1, 1, (1, 1, 64)), (16, 16, (1, 1, 64)), (17, 16, (2, 1, 64)), (16, 33, (1, 3, 64))]
)
def test_panels_by_hand(rows: int, columns: int, shape: tuple[int, int, int]) -> None:
    """16 rows by 16 columns are 64 bytes; what is begun is whole. -2 is no code, as 2 is none."""
    assert panel_shape(rows, columns) == shape
    assert to_panels(torch.zeros(rows, columns, dtype=torch.int8)).unique().tolist() == [0b01010101]
    with pytest.raises(ValueError, match="-1, 0 or"):
        to_panels(torch.full((rows, columns), -2, dtype=torch.int8))


def test_the_operator_keeps_shape_and_dtype() -> None:
    """What torch.compile is told about the operator is what it returns."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    panels = to_panels(torch.tensor(CODES, dtype=torch.int8))
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(2, 4, 3, dtype=dtype)
        y = ops.ternary_linear(x, panels, 1.0, 2, None)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            told = ops.ternary_linear(mode.from_tensor(x), mode.from_tensor(panels), 1.0, 2, None)
        assert (told.shape, told.dtype) == (y.shape, y.dtype) == ((2, 4, 2), dtype)
    assert linear.LARGEST_EXACT_K == 131072
