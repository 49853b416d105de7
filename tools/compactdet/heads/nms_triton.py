# ruff: noqa: N803 - constants of a kernel are upper-case arguments
"""Greedy NMS of a batch on a GPU, in Triton.

Boxes are processed in blocks of 64. The first kernel computes, for each box, 64 bits a word, which later
boxes it overlaps too much. The second has one program an image: it decides block by block which boxes are
kept, and adds the bits of the kept ones to those that are dropped. Its time does not depend on the number
of images.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 64


@triton.jit
def _overlap_bits(boxes, bits, diagonal, num_boxes, num_blocks, threshold, BLOCK: tl.constexpr):
    row_block, column_block, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if column_block >= row_block:
        row = row_block * BLOCK + tl.arange(0, BLOCK)
        column = column_block * BLOCK + tl.arange(0, BLOCK)
        base = boxes + image * num_boxes * 4
        row_inside, column_inside = row < num_boxes, column < num_boxes
        left = tl.load(base + row * 4, row_inside, 0.0)[:, None]
        top = tl.load(base + row * 4 + 1, row_inside, 0.0)[:, None]
        right = tl.load(base + row * 4 + 2, row_inside, 0.0)[:, None]
        bottom = tl.load(base + row * 4 + 3, row_inside, 0.0)[:, None]
        other_left = tl.load(base + column * 4, column_inside, 0.0)[None, :]
        other_top = tl.load(base + column * 4 + 1, column_inside, 0.0)[None, :]
        other_right = tl.load(base + column * 4 + 2, column_inside, 0.0)[None, :]
        other_bottom = tl.load(base + column * 4 + 3, column_inside, 0.0)[None, :]
        width = tl.maximum(tl.minimum(right, other_right) - tl.maximum(left, other_left), 0.0)
        height = tl.maximum(tl.minimum(bottom, other_bottom) - tl.maximum(top, other_top), 0.0)
        overlap = width * height
        area = (right - left) * (bottom - top)
        other_area = (other_right - other_left) * (other_bottom - other_top)
        union = area + other_area - overlap
        later = (column[None, :] > row[:, None]) & column_inside[None, :] & row_inside[:, None]
        over = (tl.div_rn(overlap, union) > threshold) & later
        word = tl.sum(over.to(tl.int64) << tl.arange(0, BLOCK)[None, :].to(tl.int64), axis=1)
        place = (image * num_boxes + row).to(tl.int64)
        tl.store(bits + place * num_blocks + column_block, word, row_inside)
        if column_block == row_block:
            tl.store(diagonal + place, word, row_inside)


@triton.jit
def _or(one, other):
    return one | other


@triton.jit
def _decide(
    bits,
    diagonal,
    left_out,
    kept,
    num_boxes,
    num_blocks,
    most,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    image = tl.program_id(0)
    words = tl.arange(0, WIDTH)
    rows = tl.arange(0, BLOCK)
    first = (image * num_boxes).to(tl.int64)
    dropped = tl.load(left_out + image * num_blocks + words, words < num_blocks, -1)
    block = 0
    count = 0
    while (block < num_blocks) & (count < most):
        out = tl.sum(tl.where(words == block, dropped, 0), axis=0)
        alive = tl.zeros((), tl.int64)
        for i in range(BLOCK):
            inside = block * BLOCK + i < num_boxes
            word = tl.load(diagonal + first + block * BLOCK + i, inside, 0)
            is_alive = ((out >> i) & 1) == 0
            out = out | tl.where(is_alive, word, 0)
            alive = alive | tl.where(is_alive, tl.full((), 1, tl.int64) << i, 0)
            count += is_alive.to(tl.int32)
        tl.store(kept + image * num_blocks + block, alive)
        row_alive = ((alive >> rows.to(tl.int64)) & 1) == 1
        place = first + block * BLOCK + rows
        tile = tl.load(
            bits + place[:, None] * num_blocks + words[None, :],
            row_alive[:, None] & (words[None, :] > block) & (words[None, :] < num_blocks),
            0,
        )
        dropped = dropped | tl.reduce(tile, 0, _or)
        block += 1


def keep_flags(boxes: Tensor, valid: Tensor, iou_threshold: float, most: int) -> Tensor:
    """Return which boxes greedy NMS keeps; see ``compactdet.heads.nms.keep_flags``."""
    num_images, num_boxes = valid.shape
    num_blocks = triton.cdiv(num_boxes, BLOCK)
    boxes = boxes.float().contiguous()
    bits = torch.empty(num_images, num_boxes, num_blocks, dtype=torch.int64, device=boxes.device)
    diagonal = torch.empty(num_images, num_boxes, dtype=torch.int64, device=boxes.device)
    shifts = torch.arange(BLOCK, device=boxes.device)
    padded = torch.ones(num_images, num_blocks * BLOCK, dtype=torch.int64, device=boxes.device)
    padded[:, :num_boxes] = ~valid
    left_out = (padded.view(num_images, num_blocks, BLOCK) << shifts).sum(-1)
    kept = torch.zeros(num_images, num_blocks, dtype=torch.int64, device=boxes.device)
    _overlap_bits[(num_blocks, num_blocks, num_images)](
        boxes, bits, diagonal, num_boxes, num_blocks, iou_threshold, BLOCK
    )
    width = max(triton.next_power_of_2(num_blocks), 16)
    _decide[(num_images,)](bits, diagonal, left_out, kept, num_boxes, num_blocks, most, BLOCK, width)
    flags = ((kept[..., None] >> shifts) & 1).view(num_images, -1)[:, :num_boxes]
    return flags.bool() & valid
