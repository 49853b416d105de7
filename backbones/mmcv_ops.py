"""mmcv's compiled operators, provided by torchvision if mmcv has no compiled extension.

MMDetection imports ``mmcv.ops``, which imports the extension ``mmcv._ext``. mmcv publishes no compiled
extension for current PyTorch, so :func:`install` replaces it by a module of that name, before
``mmdet.models`` is imported. Its functions have the calling convention of mmcv's C++ functions: the caller
allocates the outputs, and they are filled in place. An operator that is not provided raises
``NotImplementedError`` when it is called, not at import.

Half precision (float16, bfloat16) is computed in float32 and rounded once into the output, as torchvision
does under autocast.

Deviations from mmcv's kernels: the focal loss stays exact for large logits, where mmcv's float32 logarithm
is clipped (from about 17); a class weight does not apply to rows of the background class (mmcv reads past
the end of the weights there); RoIPool and the focal loss, which mmcv has only for CUDA, also run on the
CPU; soft-NMS takes the first of equal scores, supports float64, and gives boxes without area an overlap of
0.
"""

import functools
import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
import torchvision  # registers torch.ops.torchvision
from torch import Tensor

from backbones.roi_align import roi_align_gradient

_EXTENSION = 'mmcv._ext'
_KERNELS = torch.ops.torchvision


def install() -> None:
    """Replace ``mmcv._ext`` by this module; do nothing if mmcv has its extension."""
    if _EXTENSION in sys.modules or importlib.util.find_spec(_EXTENSION) is not None:
        return
    module = ModuleType(_EXTENSION, __doc__)
    # MMEngine needs the spec of this module, MMEngine 0.10.7 also its loader.
    module.__spec__ = ModuleSpec(_EXTENSION, Loader(), origin=__name__)
    module.__dict__.update({op.__name__: op for op in SERVED}, __getattr__=_unserved)
    sys.modules[_EXTENSION] = module


def _unserved(name: str) -> Callable[..., NoReturn]:
    """Return a function that raises when it is called; mmcv looks up all its operators at import."""
    if name.startswith('__'):
        raise AttributeError(f'module {_EXTENSION!r} has no attribute {name!r}')
    return functools.partial(_refuse, name)


def _refuse(name: str, *_args: Any, **_kwargs: Any) -> NoReturn:
    raise NotImplementedError(
        f'the mmcv op {name!r} needs compiled code, which this mmcv does not have, and torchvision '
        'offers no replacement; install mmcv with compiled ops, built from source against this '
        'PyTorch (MMCV_WITH_OPS=1), and it is used instead'
    )


def _wide(tensor: Tensor) -> Tensor:
    """Convert half precision to float32, which not every kernel supports otherwise."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the boxes kept by greedy NMS, (K,), by descending score.

    Args:
        boxes: (N, 4), x1 y1 x2 y2.
        scores: (N,).
        iou_threshold: a box that overlaps a kept one by more than this is dropped.
        offset: 0 or 1, added to every width and height.
    """
    boxes = _wide(boxes)
    if offset:
        # Moving x2 and y2 adds the offset to every width and height, also of an intersection:
        # min(a + 1, b + 1) - x = min(a, b) - x + 1.
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return _KERNELS.nms(boxes, scores.to(boxes.dtype), iou_threshold)


def softnms(
    boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float, sigma: float,
    min_score: float, method: int, offset: int
) -> Tensor:  # fmt: skip
    """Return the indices of the boxes kept by soft-NMS (Bodla et al. 2017, arXiv:1704.04503), (K,).

    The first K rows of ``dets``, (N, 5), become x1 y1 x2 y2 and the reduced score. All tensors are on the
    CPU, to which mmcv always moves them.

    Args:
        boxes: (N, 4), x1 y1 x2 y2.
        scores: (N,).
        dets: filled.
        iou_threshold: lowest overlap that reduces a score (``gaussian`` reduces every one).
        sigma: width of ``gaussian``.
        min_score: a box whose reduced score is below it is dropped.
        method: 0 naive (to zero), 1 linear, 2 gaussian.
        offset: 0 or 1, added to every width and height.
    """
    corners = _wide(boxes.detach()).numpy().T  # NumPy has less overhead per step
    left = _wide(scores.detach()).numpy()
    index: np.ndarray = np.arange(len(left))
    kept: list[int] = []
    kept_scores: list[float] = []
    while len(left):
        best = int(left.argmax())
        kept.append(int(index[best]))
        kept_scores.append(float(left[best]))
        x1, y1, x2, y2 = corners
        width = np.minimum(x2, x2[best]) - np.maximum(x1, x1[best]) + offset
        height = np.minimum(y2, y2[best]) - np.maximum(y1, y1[best]) + offset
        overlap = width.clip(min=0) * height.clip(min=0)
        areas = (x2 - x1 + offset) * (y2 - y1 + offset)
        union = areas + areas[best] - overlap
        iou = np.divide(overlap, union, out=np.zeros_like(union), where=union > 0)
        if method == 2:
            left = left * np.exp(-(iou**2) / sigma)
        else:
            left = np.where(iou >= iou_threshold, left * (1 - iou) * method, left)
        stays = left >= min_score
        stays[best] = False
        corners, left, index = corners[:, stays], left[stays], index[stays]
    inds = torch.tensor(kept, dtype=torch.long)
    dets[: len(kept), :4] = boxes[inds]
    dets[: len(kept), 4] = torch.tensor(kept_scores, dtype=dets.dtype)
    return inds


# RoIAlign and RoIPool: features (N, C, H, W); RoIs (K, 5), image index and x1 y1 x2 y2 in pixels of
# the image, which spatial_scale takes to those of the features; output (K, C, bins_y, bins_x).


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor,
    aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
    pool_mode: int, aligned: bool
) -> None:  # fmt: skip
    """Compute RoIAlign of ``input`` into ``output``; the argmax buffers belong to max pooling.

    Raises:
        NotImplementedError: ``pool_mode`` is 0 (max; 1 is the mean), which torchvision lacks.
    """
    if pool_mode != 1:
        _refuse("roi_align with pool_mode='max'")
    features = _wide(input)
    bins = (spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned)
    output.copy_(_KERNELS.roi_align(features, rois.to(features.dtype), *bins))


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor,
    aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
    pool_mode: int, aligned: bool
) -> None:  # fmt: skip
    """Compute the gradient of :func:`roi_align_forward` into ``grad_input``."""
    grad = _wide(grad_output)
    rois = rois.to(grad.dtype)
    if not grad.is_cuda:
        grad_input.copy_(
            roi_align_gradient(grad, rois, grad_input.shape, spatial_scale, sampling_ratio, aligned)
        )
        return
    bins = (spatial_scale, aligned_height, aligned_width)
    rest = (*grad_input.shape, sampling_ratio, aligned)
    grad_input.copy_(_KERNELS._roi_align_backward(grad, rois, *bins, *rest))


def roi_pool_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax: Tensor, pooled_height: int,
    pooled_width: int, spatial_scale: float
) -> None:  # fmt: skip
    """Compute RoIPool of ``input`` into ``output``, and the positions y * W + x of the maxima.

    mmcv's bins differ from torchvision's, which rounds the RoI first: mmcv's cover every pixel that they
    touch of [x1, x2 + 1) x [y1, y2 + 1), scaled and not rounded. So the bins are computed here, and
    torchvision pools each as an RoI of whole pixels. A bin without pixels gives 0 and position -1.
    """
    features = _wide(input)
    rois = rois.to(features.dtype)
    start = rois[:, 1:3] * spatial_scale
    size = (rois[:, 3:5] + 1) * spatial_scale - start

    def edges(axis: int, bins: int) -> tuple[Tensor, Tensor]:
        """Return first pixel of each bin and the one after its last, (K, bins), along x (0) or y (1)."""
        steps = torch.arange(bins + 1, device=rois.device, dtype=rois.dtype)
        borders = steps * (size[:, axis, None] / bins) + start[:, axis, None]
        length = input.shape[3 - axis]
        return borders[:, :-1].floor().clamp(0, length), borders[:, 1:].ceil().clamp(0, length)

    x1, x2 = (edge[:, None, :] for edge in edges(0, pooled_width))
    y1, y2 = (edge[:, :, None] for edge in edges(1, pooled_height))
    empty = (x2 <= x1) | (y2 <= y1) | (size <= 0).any(dim=1)[:, None, None]
    # torchvision includes the pixel of the far corner.
    corners = torch.broadcast_tensors(rois[:, 0, None, None], x1, y1, x2 - 1, y2 - 1)
    bins = torch.stack(corners, dim=-1).reshape(-1, 5)
    shape = (len(rois), pooled_height, pooled_width, input.shape[1])
    values, positions = (
        pooled.reshape(shape).permute(0, 3, 1, 2) for pooled in _KERNELS.roi_pool(features, bins, 1.0, 1, 1)
    )
    output.copy_(values.masked_fill(empty[:, None], 0))
    argmax.copy_(positions.masked_fill(empty[:, None], -1))


def roi_pool_backward(
    grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor, pooled_height: int,
    pooled_width: int, spatial_scale: float
) -> None:  # fmt: skip
    """Compute the gradient of :func:`roi_pool_forward` into ``grad_input``."""
    grad = _wide(grad_output)
    bins = (spatial_scale, pooled_height, pooled_width, *grad_input.shape)
    grad_input.copy_(_KERNELS._roi_pool_backward(grad, rois.to(grad.dtype), argmax, *bins))


# Sigmoid focal loss (Lin et al. 2017, arXiv:1708.02002, equation 5): logits (N, C), class indices
# (N,) of which any outside 0..C-1 is background, weight of each class (C,) or empty.


def _focal_terms(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sign of each label (1 or -1), the logit in favor of the label, and its factor, each (N,
    C).
    """
    input = _wide(input)
    num_classes = input.shape[1]
    positive = target[:, None] == torch.arange(num_classes, device=input.device)
    sign = positive.to(input.dtype).mul_(2).sub_(1)
    factor = sign * (alpha - 0.5) + 0.5
    if weight.numel():
        known = (target >= 0) & (target < num_classes)
        of_row = weight.to(input.dtype)[target.clamp(0, num_classes - 1)]
        factor = factor * torch.where(known, of_row, 1)[:, None]
    return sign, sign * input, factor


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Compute the loss of every logit into ``output``, (N, C); positives have weight alpha, others 1 -
    alpha.
    """
    _, logit, factor = _focal_terms(input, target, weight, alpha)
    output.copy_(-factor * torch.sigmoid(-logit) ** gamma * F.logsigmoid(logit))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Compute the derivative of each loss by its logit into ``grad_input``, (N, C)."""
    sign, logit, factor = _focal_terms(input, target, weight, alpha)
    p, miss = torch.sigmoid(logit), torch.sigmoid(-logit)
    grad_input.copy_(-sign * factor * miss**gamma * (miss - gamma * p * F.logsigmoid(logit)))


# Deformable convolution v1 (Dai et al. 2017, arXiv:1703.06211) and v2 (Zhu et al. 2018,
# arXiv:1811.11168): input (N, C_in, H, W), weight (C_out, C_in / group, kH, kW), offset
# (N, 2 * deformable_group * kH * kW, H_out, W_out) with y before x, mask (half the offset's
# channels). mmcv's scratch buffers (columns, ones), kernel size and im2col_step are not needed.

# mmcv's keywords in the order of torchvision's kernel.
GEOMETRY_V1 = ('dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW', 'group', 'deformable_group')
GEOMETRY_V2 = (
    'stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w', 'group',
    'deformable_group',
)  # fmt: skip


def _operands(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> list[Tensor]:
    """Return the operands of the kernel, which requires a mask and a bias even if there is none."""
    if mask is None:
        mask = input.new_zeros(len(input), 1)
    if bias is None or not bias.numel():
        bias = weight.new_zeros(len(weight))
    return [_wide(operand) for operand in (input, weight, offset, mask, bias)]


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor,
    **geometry: int
) -> None:  # fmt: skip
    """Compute v1 of ``input`` into ``output``, (N, C_out, H_out, W_out)."""
    sizes = [geometry[key] for key in GEOMETRY_V1]
    output.copy_(_KERNELS.deform_conv2d(*_operands(input, weight, offset), *sizes, False))


def _grads_v1(
    grad_output: Tensor, input: Tensor, weight: Tensor, offset: Tensor, geometry: dict[str, int]
) -> tuple[Tensor, ...]:
    """Return the gradients of the five operands of v1."""
    operands = _operands(input, weight, offset)
    sizes = [geometry[key] for key in GEOMETRY_V1]
    return _KERNELS._deform_conv2d_backward(_wide(grad_output), *operands, *sizes, False)


def deform_conv_backward_input(
    input: Tensor, offset: Tensor, grad_output: Tensor, grad_input: Tensor, grad_offset: Tensor,
    weight: Tensor, columns: Tensor, **geometry: int
) -> None:  # fmt: skip
    """Compute the gradients of v1 into ``grad_input`` and ``grad_offset``."""
    grads = _grads_v1(grad_output, input, weight, offset, geometry)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor, offset: Tensor, grad_output: Tensor, grad_weight: Tensor, columns: Tensor,
    ones: Tensor, scale: float, **geometry: int
) -> None:  # fmt: skip
    """Add ``scale`` times v1's gradient to ``grad_weight``."""
    # Only the shape of the weight is needed here.
    grads = _grads_v1(grad_output, input, torch.zeros_like(grad_weight), offset, geometry)
    grad_weight.add_(grads[1], alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, offset: Tensor, mask: Tensor,
    output: Tensor, columns: Tensor, **geometry: int
) -> None:  # fmt: skip
    """Compute v2 of ``input`` into ``output``; ``bias`` is empty if there is none."""
    operands = _operands(input, weight, offset, mask, bias)
    sizes = [geometry[key] for key in GEOMETRY_V2]
    output.copy_(_KERNELS.deform_conv2d(*operands, *sizes, True))


def modulated_deform_conv_backward(
    input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor, offset: Tensor, mask: Tensor,
    columns: Tensor, grad_input: Tensor, grad_weight: Tensor, grad_bias: Tensor,
    grad_offset: Tensor, grad_mask: Tensor, grad_output: Tensor, **geometry: int
) -> None:  # fmt: skip
    """Compute gradients of v2 into the five ``grad_`` tensors; ``grad_bias`` is empty without a bias."""
    operands = _operands(input, weight, offset, mask, bias)
    sizes = [geometry[key] for key in GEOMETRY_V2]
    grads = _KERNELS._deform_conv2d_backward(_wide(grad_output), *operands, *sizes, True)
    outputs = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias)
    for output, grad in zip(outputs, grads, strict=True):
        if output.numel():
            output.copy_(grad)


def get_compiler_version() -> str:
    """Return the text that MMEngine and mmcv print as mmcv's compiler."""
    return f'none (ops served by torchvision {torchvision.__version__})'


def get_compiling_cuda_version() -> str:
    """Return the text that they print as the CUDA version of mmcv's operators."""
    return get_compiler_version()


SERVED = (
    nms, softnms,
    roi_align_forward, roi_align_backward, roi_pool_forward, roi_pool_backward,
    sigmoid_focal_loss_forward, sigmoid_focal_loss_backward,
    deform_conv_forward, deform_conv_backward_input, deform_conv_backward_parameters,
    modulated_deform_conv_forward, modulated_deform_conv_backward,
    get_compiler_version, get_compiling_cuda_version,
)  # fmt: skip
