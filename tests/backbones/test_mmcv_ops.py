"""mmcv's pooling, focal loss and deformable convolution as served by torchvision."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from backbones import mmcv_ops  # puts the ops in place, so it comes before mmcv.ops

# isort: split
from mmcv import ops

pytestmark = pytest.mark.skipif(
    sys.modules['mmcv._ext'].__spec__.origin != mmcv_ops.__name__,
    reason='mmcv has its own compiled ops',
)


def doubles(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# --- RoIAlign and RoIPool --------------------------------------------------------------------

# On a plane that rises by 1 a column and 10 a row, a mean of samples is the value at its center.
PLANE = (10 * torch.arange(6.0)[:, None] + torch.arange(8.0))[None, None]


@pytest.mark.parametrize('sampling_ratio', [0, 1, 3])
def test_roi_align_by_hand(sampling_ratio):
    # Bins of 2 x 2 pixels with centers (2, 2), (4, 2), (2, 4), (4, 4) in continuous coordinates;
    # a pixel's center is half a pixel from its corner, so x = 2 has the value 1.5 when aligned.
    rois = torch.tensor([[0.0, 1, 1, 5, 5]])
    aligned = ops.RoIAlign(2, 1.0, sampling_ratio, aligned=True)(PLANE, rois)
    assert aligned.flatten().tolist() == pytest.approx([16.5, 18.5, 36.5, 38.5])
    legacy = ops.RoIAlign(2, 1.0, sampling_ratio, aligned=False)(PLANE, rois)
    assert legacy.flatten().tolist() == pytest.approx([22, 24, 42, 44])


def test_roi_align_scale_batch_index_and_least_size():
    features = torch.cat([PLANE, -PLANE])
    pool = ops.RoIAlign((1, 2), 0.5, aligned=False)
    found = pool(features, torch.tensor([[1.0, 2, 2, 10, 6]]))
    assert found.flatten().tolist() == pytest.approx([-22, -24])  # x 1 to 5, y 1 to 3
    # Without alignment an RoI is at least one pixel wide; with it, an RoI may be smaller.
    thin = torch.tensor([[0.0, 4, 4, 4.5, 4.5]])
    assert pool(features, thin).flatten().tolist() == pytest.approx([27.25, 27.75])
    aligned = ops.RoIAlign(1, 0.5, aligned=True)(features, thin)
    assert aligned.item() == pytest.approx(10 * 1.625 + 1.625)


def test_roi_align_max_mode_is_refused():
    with pytest.raises(NotImplementedError, match="roi_align with pool_mode='max'"):
        ops.RoIAlign(2, pool_mode='max')(PLANE, torch.tensor([[0.0, 1, 1, 5, 5]]))


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_roi_align_gradient(aligned, sampling_ratio):
    rois = torch.tensor([[0, 0.3, 0.6, 7.1, 5.2], [1, 2, 1, 4, 9], [0, -3, 2, 3, 3]]).double()
    pool = ops.RoIAlign((2, 3), 0.5, sampling_ratio, aligned=aligned)
    features = doubles(2, 2, 4, 5).requires_grad_()
    assert gradcheck(lambda x: pool(x, rois), [features], fast_mode=False)


def naive_roi_pool(features: Tensor, roi: list[float], bins: tuple[int, int], scale: float):
    """mmcv's rule for one RoI: (values, positions), one for each channel and bin."""
    index, x1, y1, x2, y2 = roi
    (channels, height, width), image = features.shape[1:], features[int(index)]
    x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
    values = torch.zeros(channels, *bins, dtype=features.dtype)
    positions = torch.full((channels, *bins), -1)
    if x2 <= x1 or y2 <= y1:
        return values, positions
    for c in range(channels):
        for py in range(bins[0]):
            for px in range(bins[1]):
                tall, wide = (y2 - y1) / bins[0], (x2 - x1) / bins[1]
                rows = range(max(0, math.floor(py * tall + y1)), height)
                columns = range(max(0, math.floor(px * wide + x1)), width)
                inside = [
                    (image[c, y, x].item(), -y * width - x)
                    for y in rows
                    for x in columns
                    if y < math.ceil((py + 1) * tall + y1) and x < math.ceil((px + 1) * wide + x1)
                ]
                if inside:
                    values[c, py, px], before = max(inside)  # the first of equal values
                    positions[c, py, px] = -before
    return values, positions


def test_roi_pool_by_hand():
    # Scaled by a half: x 1 to 3.5, y 0.5 to 2.5, not rounded. Bins along x: 1 to 2.25 and 2.25 to
    # 3.5, so the last pixels touched are 2 and 3; along y, 0.5 to 1.5 and 1.5 to 2.5: 1 and 2.
    rois = torch.tensor([[0.0, 2, 1, 6, 4]])
    assert ops.RoIPool(2, 0.5)(PLANE, rois).flatten().tolist() == [12, 13, 22, 23]
    outside = torch.tensor([[0.0, 40, 40, 60, 60], [0.0, 6, 6, 2, 2]])
    assert not ops.RoIPool(2, 0.5)(PLANE, outside).any()


@given(st.integers(0, 10**6), st.sampled_from([1.0, 0.5, 1 / 16]))
@settings(deadline=None, max_examples=30)
def test_roi_pool_equals_mmcvs_rule(seed, scale):
    random = np.random.default_rng(seed)
    features = torch.relu(doubles(2, 2, 5, 6, seed=seed))  # ReLU: ties between zeros
    corners = random.uniform(-3, 9, (4, 2)).round(2) / scale
    sizes = random.uniform(-1, 8, (4, 2)).round(2) / scale
    rois = np.column_stack([random.integers(0, 2, 4), corners, corners + sizes])
    output = features.new_zeros(4, 2, 2, 3)
    argmax = torch.zeros(4, 2, 2, 3, dtype=torch.int)
    mmcv_ops.roi_pool_forward(features, torch.from_numpy(rois), output, argmax, 2, 3, scale)
    for k, roi in enumerate(rois.tolist()):
        values, positions = naive_roi_pool(features, roi, (2, 3), scale)
        assert torch.equal(output[k], values)
        assert torch.equal(argmax[k].long(), positions)


def test_roi_pool_gradient():
    rois = torch.tensor([[0, 0.3, 0.6, 7.1, 5.2], [1, 2, 1, 4, 9], [0, 40, 40, 50, 50]]).double()
    pool = ops.RoIPool((2, 3), 0.5)
    features = doubles(2, 2, 4, 5).requires_grad_()
    assert gradcheck(lambda x: pool(x, rois), [features], fast_mode=False)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('pool', [ops.RoIAlign(2), ops.RoIPool(2)], ids=['align', 'pool'])
def test_pooling_in_half_precision(pool, dtype):
    features = PLANE.to(dtype).requires_grad_()
    rois = torch.tensor([[0.0, 1, 1, 4, 4]])  # float32, as under autocast
    found = pool(features, rois)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), pool(PLANE, rois), rtol=1e-2, atol=0)
    found.sum().backward()
    assert features.grad.dtype == dtype
    assert features.grad.sum().item() == pytest.approx(4, rel=1e-2)


# --- focal loss ------------------------------------------------------------------------------


def test_focal_loss_by_hand():
    # Logit 0: p = 1/2, so every term is (1/2)^2 log 2, times alpha or 1 - alpha.
    logits = torch.zeros(3, 2)
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([0, 1, 2]), 2.0, 0.25, None, 'none')
    positive, negative = 0.25 * math.log(2) / 4, 0.75 * math.log(2) / 4
    expected = [[positive, negative], [negative, positive], [negative, negative]]
    torch.testing.assert_close(loss, torch.tensor(expected))
    mean = ops.SigmoidFocalLoss(2.0, 0.25)(logits, torch.tensor([0, 1, 2]))
    assert mean.item() == pytest.approx((2 * positive + 4 * negative) / 3)


def test_focal_loss_weights_the_rows_of_each_class():
    logits, target = doubles(3, 2), torch.tensor([1, 0, 2])
    plain = ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'none')
    weights = torch.tensor([3.0, 5.0], dtype=torch.float64)
    weighted = ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, weights, 'none')
    torch.testing.assert_close(weighted, plain * torch.tensor([[5.0], [3.0], [1.0]]))


def test_focal_loss_of_large_logits_is_exact():
    logits = torch.tensor([[60.0, -60.0]], requires_grad=True)
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, 'none')
    torch.testing.assert_close(loss, torch.tensor([[45.0, 15.0]]))
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.75, -0.25]]))


@pytest.mark.parametrize('gamma', [0.0, 1.5, 2.0])
@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
@pytest.mark.parametrize('weighted', [False, True])
def test_focal_loss_gradient(gamma, reduction, weighted):
    weight = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64) if weighted else None
    target = torch.tensor([0, 3, 4, 2, 1])
    logits = doubles(5, 4).requires_grad_()
    if reduction == 'none':  # mmcv's backward scales by grad_output elementwise
        assert gradcheck(lambda x: ops.sigmoid_focal_loss(x, target, gamma, 0.3, weight, 'none'), [logits])
    else:
        loss = ops.SigmoidFocalLoss(gamma, 0.3, weight, reduction)
        assert gradcheck(lambda x: loss(x, target), [logits])


def test_focal_loss_equals_torchvisions():
    from torchvision.ops import sigmoid_focal_loss

    logits, target = doubles(6, 3), torch.tensor([0, 1, 2, 3, 3, 1])
    one_hot = torch.nn.functional.one_hot(target, 4)[:, :3].double()
    torch.testing.assert_close(
        ops.sigmoid_focal_loss(logits, target, 2.0, 0.3, None, 'none'),
        sigmoid_focal_loss(logits, one_hot, 0.3, 2.0),
        rtol=1e-12,
        atol=0,
    )


# --- deformable convolution ------------------------------------------------------------------

GEOMETRY = {'stride': (2, 1), 'padding': (1, 2), 'dilation': (1, 2), 'groups': 2}


def test_deform_conv_without_offsets_is_a_convolution():
    layer = ops.DeformConv2d(4, 6, (3, 2), deform_groups=2, **GEOMETRY).double()
    images = doubles(2, 4, 7, 6)
    expected = torch.nn.functional.conv2d(images, layer.weight, None, **GEOMETRY)
    offset = torch.zeros(2, 2 * 2 * 6, *expected.shape[2:], dtype=torch.float64)
    torch.testing.assert_close(layer(images, offset), expected)
    modulated = ops.ModulatedDeformConv2d(4, 6, (3, 2), deform_groups=2, **GEOMETRY).double()
    modulated.weight, modulated.bias = layer.weight, torch.nn.Parameter(doubles(6))
    mask = torch.full((2, 2 * 6, *expected.shape[2:]), 0.5, dtype=torch.float64)
    torch.testing.assert_close(
        modulated(images, offset, mask), expected / 2 + modulated.bias[:, None, None]
    )


def test_deform_conv_offsets_are_y_before_x():
    layer = ops.DeformConv2d(1, 1, 1)
    torch.nn.init.ones_(layer.weight)
    offset = torch.zeros(1, 2, 6, 8)
    offset[0, 0, 2, 3], offset[0, 1, 2, 3] = 1, 0.5  # one row down, half a column right
    found = layer(PLANE, offset)
    assert found[0, 0, 2, 3].item() == 33.5
    found[0, 0, 2, 3] = PLANE[0, 0, 2, 3]
    assert torch.equal(found, PLANE)


def test_deform_conv_gradient():
    layer = ops.DeformConv2d(4, 2, (2, 3), deform_groups=2, **GEOMETRY).double()
    images = doubles(2, 4, 3, 4).requires_grad_()
    shape = torch.nn.functional.conv2d(images, layer.weight, None, **GEOMETRY).shape
    offset = (doubles(2, 2 * 2 * 6, *shape[2:], seed=1) * 0.3).requires_grad_()
    operands = [images, offset, layer.weight]
    stride, padding, dilation, groups = GEOMETRY.values()
    assert gradcheck(
        lambda x, o, w: ops.deform_conv2d(x, o, w, stride, padding, dilation, groups, 2), operands
    )


@pytest.mark.parametrize('with_bias', [True, False])
def test_modulated_deform_conv_gradient(with_bias):
    images = doubles(2, 4, 3, 4).requires_grad_()
    weight = doubles(2, 2, 2, 3, seed=1).requires_grad_()
    bias = doubles(2, seed=2).requires_grad_() if with_bias else None
    shape = torch.nn.functional.conv2d(images, weight, None, **GEOMETRY).shape
    offset = (doubles(2, 2 * 2 * 6, *shape[2:], seed=3) * 0.3).requires_grad_()
    mask = doubles(2, 2 * 6, *shape[2:], seed=4).sigmoid().requires_grad_()
    stride, padding, dilation, groups = GEOMETRY.values()

    def convolve(*operands: Tensor) -> Tensor:
        x, o, m, w, b = operands if with_bias else (*operands, None)
        return ops.modulated_deform_conv2d(x, o, m, w, b, stride, padding, dilation, groups, 2)

    operands = [images, offset, mask, weight, *([bias] if with_bias else [])]
    assert gradcheck(convolve, operands)


# --- on a machine with CUDA ------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_cuda_agrees_with_cpu(dtype):
    target = torch.tensor([0, 2, 1])
    rois = torch.tensor([[0.0, 1, 1, 5, 4], [0.0, 0, 2, 7, 6]])
    offset = doubles(1, 18, 6, 8).float() * 0.3
    boxes = torch.tensor([[0.0, 0, 4, 4], [0.0, 0, 4, 3], [8.0, 8, 9, 9]])
    scores = torch.tensor([0.25, 0.5, 0.75])
    weight = doubles(2, 1, 3, 3).float()

    def outcomes(device: str, dtype: torch.dtype) -> list[Tensor]:
        x = (PLANE / 50).to(device, dtype).requires_grad_()
        logits = doubles(3, 2).to(device, dtype).requires_grad_()
        place = {'device': device, 'dtype': dtype}
        losses = [
            ops.RoIAlign(2)(x, rois.to(device)),
            ops.RoIPool(2)(x, rois.to(device)),
            ops.sigmoid_focal_loss(logits, target.to(device)),
            ops.deform_conv2d(x, offset.to(**place), weight.to(**place), 1, 1),
            ops.modulated_deform_conv2d(
                x, offset.to(**place), offset[:, :9].to(**place), weight.to(**place), None, 1, 1
            ),
        ]
        sum(loss.sum() for loss in losses).backward()
        kept = ops.nms(boxes.to(**place), scores.to(**place), 0.5, 1)[1]
        return [found.detach().float().cpu() for found in (*losses, x.grad, logits.grad, kept)]

    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    for found, expected in zip(outcomes('cuda', dtype), outcomes('cpu', torch.float32), strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
