"""Triton kernels for attention with SAM's decomposed relative positions (see `ufo.backbones.relative_fused`).

A tile of keys is some rows of `P` neighbouring columns of patches, so that what a query adds to its columns
is loaded once for all rows. No two programs write to one place: sums have one order. Products accumulate in
float32.
Shapes: `A` queries of a program, `K` keys of a tile, `D` head width, filled up to a power of two.
"""

# no annotations from the future: Triton reads `tl.constexpr` where it stands
import triton
import triton.language as tl


@triton.jit
def _rows(start, index, inside, stride, width, D: tl.constexpr):
    """Rows `index [X]` of a matrix with `width` columns: `[X, D]`, zero outside."""
    d = tl.arange(0, D)
    seen = inside[:, None] & (d < width)[None, :]
    return tl.load(start + index[:, None] * stride + d[None, :], mask=seen, other=0.0)


@triton.jit
def _store(start, values, index, inside, stride, width, D: tl.constexpr):
    d = tl.arange(0, D)
    seen = inside[:, None] & (d < width)[None, :]
    tl.store(start + index[:, None] * stride + d[None, :], values.to(start.dtype.element_ty), mask=seen)


@triton.jit
def _added(start, index, inside, length, at):
    """What queries `index [A]` add to places `at [K]` of an axis with `length`: `[A, K]`."""
    seen = inside[:, None] & (at < length)[None, :]
    return tl.load(start + index[:, None] * length + at[None, :], mask=seen, other=0.0).to(tl.float32)


@triton.jit
def _added_to_rows(start, index, inside, length, first, P: tl.constexpr, K: tl.constexpr):
    """`_added` to the rows of a tile, `[A, K]`, or `[A, 1]` where the tile has one row."""
    if P == K:
        added = tl.load(start + index * length + first, mask=inside, other=0.0).to(tl.float32)[:, None]
    else:
        added = _added(start, index, inside, length, first + tl.arange(0, K) // P)
    return added


@triton.jit
def _logits(q, k, added, visible, scale):
    """`[A, K]` in float32; minus infinity at keys that are not visible."""
    products = tl.dot(q, tl.trans(k), input_precision="ieee") * scale + added
    return tl.where(visible[None, :], products, float("-inf"))


@triton.jit
def _attend(logits, v, total, most, weight):
    """One more tile of a softmax: weighted sum `[A, D]`, largest logit `[A]`, sum of weights `[A]`."""
    largest = tl.maximum(most, tl.max(logits, 1))
    share = tl.exp(logits - largest[:, None])
    shrink = tl.exp(most - largest)
    total = total * shrink[:, None] + tl.dot(share.to(v.dtype), v, input_precision="ieee")
    return total, largest, weight * shrink + tl.sum(share, 1)


@triton.jit
def _see_columns(
    total, most, weight, q, k_start, v_start, row_start, col_start, index, inside, first_col,
    height, width, head, stride, scale, P: tl.constexpr, K: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Queries attend to `P` columns of patches, from `first_col` on."""
    place = tl.arange(0, K)
    col = first_col + place % P
    to_columns = _added(col_start, index, inside, width, col)
    for first in range(0, height, K // P):
        row = first + place // P
        visible = (row < height) & (col < width)
        k = _rows(k_start, row * width + col, visible, stride, head, D)
        v = _rows(v_start, row * width + col, visible, stride, head, D)
        added = to_columns + _added_to_rows(row_start, index, inside, height, first, P, K)
        total, most, weight = _attend(_logits(q, k, added, visible, scale), v, total, most, weight)
    return total, most, weight


@triton.jit
def forward(
    q_ptr, k_ptr, v_ptr, row_ptr, col_ptr, pk_ptr, pv_ptr, mask_ptr, out_ptr, lse_ptr,
    stride_w, stride_h, stride_n, prompt_w, prompt_h, prompt_n, mask_w, out_w, out_h, out_n,
    heads, height, width, head, prompt, scale, wide,
    P: tl.constexpr, REST: tl.constexpr, A: tl.constexpr, K: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Output and the logarithm of the softmax's sum, of `A` queries of one head of one window.

    `wide` columns are seen `P` at a time; `REST` is the width of the tile behind them, 0 where there is none.
    """
    pair = tl.program_id(1).to(tl.int64)
    window, here = pair // heads, pair % heads
    patches = height * width
    index = tl.program_id(0) * A + tl.arange(0, A)
    inside = index < patches
    offset, own = window * stride_w + here * stride_h, pair * patches
    q = _rows(q_ptr + offset, index, inside, stride_n, head, D)
    k_start, v_start = k_ptr + offset, v_ptr + offset
    row_start, col_start = row_ptr + own * height, col_ptr + own * width
    total = tl.zeros((A, D), tl.float32)
    most = tl.full((A,), float("-inf"), tl.float32)
    weight = tl.zeros((A,), tl.float32)
    # patches come first: there is one in every tile, and the largest logit is a number from then on
    for first_col in range(0, wide, P):
        total, most, weight = _see_columns(
            total, most, weight, q, k_start, v_start, row_start, col_start, index, inside, first_col,
            height, width, head, stride_n, scale, P, K, D,
        )  # fmt: skip
    if REST > 0:
        total, most, weight = _see_columns(
            total, most, weight, q, k_start, v_start, row_start, col_start, index, inside, wide,
            height, width, head, stride_n, scale, REST, K, D,
        )  # fmt: skip
    before = window * prompt_w + here * prompt_h
    for first in range(0, prompt, K):
        at = first + tl.arange(0, K)
        visible = tl.load(mask_ptr + window * mask_w + at, mask=at < prompt, other=0) != 0
        k = _rows(pk_ptr + before, at, visible, prompt_n, head, D)
        v = _rows(pv_ptr + before, at, visible, prompt_n, head, D)
        total, most, weight = _attend(_logits(q, k, 0.0, visible, scale), v, total, most, weight)
    _store(out_ptr + window * out_w + here * out_h, total / weight[:, None], index, inside, out_n, head, D)
    tl.store(lse_ptr + own + index, most + tl.log(weight), mask=inside)


@triton.jit
def _gradient(logits, lse, delta, gradient, v):
    """Shares and gradient of the logits, both `[A, K]` in float32, from the output's `gradient [A, D]`."""
    share = tl.exp(logits - lse[:, None])
    of_share = tl.dot(gradient, tl.trans(v), input_precision="ieee")
    return share, share * (of_share - delta[:, None])


@triton.jit
def _columns_backward(
    of_q, q, gradient, lse, delta, k_start, v_start, row_start, col_start, of_row_start, of_col_start,
    index, inside, first_col, height, width, head, stride, scale,
    P: tl.constexpr, A: tl.constexpr, K: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Gradients of queries, of what they add to rows (the part from these columns) and to these columns."""
    rows: tl.constexpr = K // P
    place = tl.arange(0, K)
    col = first_col + place % P
    to_columns = _added(col_start, index, inside, width, col)
    of_columns = tl.zeros((A, K), tl.float32)
    for first in range(0, height, rows):
        row = first + place // P
        visible = (row < height) & (col < width)
        k = _rows(k_start, row * width + col, visible, stride, head, D)
        v = _rows(v_start, row * width + col, visible, stride, head, D)
        added = to_columns + _added_to_rows(row_start, index, inside, height, first, P, K)
        _, of_logits = _gradient(_logits(q, k, added, visible, scale), lse, delta, gradient, v)
        of_q += tl.dot(of_logits.to(k.dtype), k, input_precision="ieee")
        of_columns += of_logits
        of_rows = tl.sum(tl.reshape(of_logits, (A, rows, P)), 2)
        at = first + tl.arange(0, rows)
        seen = inside[:, None] & (at < height)[None, :]
        tl.store(of_row_start + index[:, None] * height + at[None, :], of_rows, mask=seen)
    at = first_col + tl.arange(0, P)
    seen = inside[:, None] & (at < width)[None, :]
    summed = tl.sum(tl.reshape(of_columns, (A, rows, P)), 1)
    tl.store(of_col_start + index[:, None] * width + at[None, :], summed, mask=seen)
    return of_q


@triton.jit
def backward_of_queries(
    q_ptr, k_ptr, v_ptr, row_ptr, col_ptr, pk_ptr, pv_ptr, mask_ptr, out_ptr, lse_ptr,
    gradient_ptr, delta_ptr, of_q_ptr, of_row_ptr, of_col_ptr,
    stride_w, stride_h, stride_n, prompt_w, prompt_h, prompt_n, mask_w, out_w, out_h, out_n,
    heads, height, width, head, prompt, scale, wide,
    P: tl.constexpr, REST: tl.constexpr, A: tl.constexpr, K: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Gradients of `A` queries and of what they add to rows and columns; `delta` for the other kernel.

    Every group of columns has a table of its own of what it gives to the rows: they are added up afterwards.
    """
    pair = tl.program_id(1).to(tl.int64)
    window, here = pair // heads, pair % heads
    patches = height * width
    index = tl.program_id(0) * A + tl.arange(0, A)
    inside = index < patches
    offset, own = window * stride_w + here * stride_h, pair * patches
    q = _rows(q_ptr + offset, index, inside, stride_n, head, D)
    given = window * out_w + here * out_h
    gradient = _rows(gradient_ptr + given, index, inside, out_n, head, D)
    out = _rows(out_ptr + given, index, inside, out_n, head, D)
    lse = tl.load(lse_ptr + own + index, mask=inside, other=0.0)
    delta = tl.sum(out.to(tl.float32) * gradient.to(tl.float32), 1)
    tl.store(delta_ptr + own + index, delta, mask=inside)

    k_start, v_start = k_ptr + offset, v_ptr + offset
    row_start, col_start = row_ptr + own * height, col_ptr + own * width
    of_col_start = of_col_ptr + own * width
    table = tl.num_programs(1).to(tl.int64) * patches * height
    of_row_start = of_row_ptr + own * height
    of_q = tl.zeros((A, D), tl.float32)
    for first_col in range(0, wide, P):
        of_q = _columns_backward(
            of_q, q, gradient, lse, delta, k_start, v_start, row_start, col_start,
            of_row_start + (first_col // P) * table, of_col_start, index, inside, first_col,
            height, width, head, stride_n, scale, P, A, K, D,
        )  # fmt: skip
    if REST > 0:
        of_q = _columns_backward(
            of_q, q, gradient, lse, delta, k_start, v_start, row_start, col_start,
            of_row_start + (wide // P) * table, of_col_start, index, inside, wide,
            height, width, head, stride_n, scale, REST, A, K, D,
        )  # fmt: skip
    before = window * prompt_w + here * prompt_h
    for first in range(0, prompt, K):
        at = first + tl.arange(0, K)
        visible = tl.load(mask_ptr + window * mask_w + at, mask=at < prompt, other=0) != 0
        k = _rows(pk_ptr + before, at, visible, prompt_n, head, D)
        v = _rows(pv_ptr + before, at, visible, prompt_n, head, D)
        _, of_logits = _gradient(_logits(q, k, 0.0, visible, scale), lse, delta, gradient, v)
        of_q += tl.dot(of_logits.to(k.dtype), k, input_precision="ieee")
    _store(of_q_ptr + own * head, of_q * scale, index, inside, head, head, D)


@triton.jit
def backward_of_keys(
    q_ptr, k_ptr, v_ptr, row_ptr, col_ptr, mask_ptr, lse_ptr, gradient_ptr, delta_ptr, of_k_ptr, of_v_ptr,
    stride_w, stride_h, stride_n, key_w, key_h, key_n, mask_w, out_w, out_h, out_n,
    heads, height, width, head, keys, scale, start,
    PROMPT: tl.constexpr, P: tl.constexpr, A: tl.constexpr, K: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Gradients of `K` keys and values: of the prompt, or of a tile of patches from column `start` on."""
    pair = tl.program_id(1).to(tl.int64)
    window, here = pair // heads, pair % heads
    patches = height * width
    own = pair * patches
    place = tl.arange(0, K)
    # a tile of patches; the prompt is one row of tiles
    down = tl.cdiv(height, K // P)
    first_row = (tl.program_id(0) % down) * (K // P)
    col = start + (tl.program_id(0) // down) * P + place % P
    row = first_row + place // P
    if PROMPT:
        at = tl.program_id(0) * K + place
        visible = tl.load(mask_ptr + window * mask_w + at, mask=at < keys, other=0) != 0
        there = at < keys
    else:
        at = row * width + col
        visible = (row < height) & (col < width)
        there = visible
    offset = window * key_w + here * key_h
    k = _rows(k_ptr + offset, at, visible, key_n, head, D)
    v = _rows(v_ptr + offset, at, visible, key_n, head, D)
    q_start, given = q_ptr + window * stride_w + here * stride_h, window * out_w + here * out_h
    of_k = tl.zeros((K, D), tl.float32)
    of_v = tl.zeros((K, D), tl.float32)
    for first in range(0, patches, A):
        index = first + tl.arange(0, A)
        inside = index < patches
        q = _rows(q_start, index, inside, stride_n, head, D)
        gradient = _rows(gradient_ptr + given, index, inside, out_n, head, D)
        lse = tl.load(lse_ptr + own + index, mask=inside, other=0.0)
        delta = tl.load(delta_ptr + own + index, mask=inside, other=0.0)
        if PROMPT:
            logits = _logits(q, k, 0.0, visible, scale)
        else:
            added = _added(col_ptr + own * width, index, inside, width, col)
            added += _added_to_rows(row_ptr + own * height, index, inside, height, first_row, P, K)
            logits = _logits(q, k, added, visible, scale)
        share, of_logits = _gradient(logits, lse, delta, gradient, v)
        of_v += tl.dot(tl.trans(share.to(gradient.dtype)), gradient, input_precision="ieee")
        of_k += tl.dot(tl.trans(of_logits.to(q.dtype)), q, input_precision="ieee")
    _store(of_k_ptr + pair * keys * head, of_k * scale, at, there, head, head, D)
    _store(of_v_ptr + pair * keys * head, of_v, at, there, head, head, D)
