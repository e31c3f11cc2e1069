"""Triton kernels for attention with SAM's decomposed relative positions (see `ufo.backbones.relative_fused`).

Keys come in three kinds: tiles of neighbouring patches of one row, whose term for the row is one number per
query and whose terms for the columns stay where they are for all rows; the other columns, whose terms are
products with a table of zeros and ones; the prompt. No two programs write to one place: sums have one order.
Shapes: `A` queries of a program, `K` keys of a tile, `D` head width and `E` terms (powers of two).
"""

# no annotations from the future: Triton reads `tl.constexpr` where it stands
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)  # logits are in units of log 2
ROWS, OTHERS, PROMPT = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _pair(parts):
    """Which head of which window a program is for, counted through, and which of its parts."""
    program = tl.program_id(0)
    return (program // parts).to(tl.int64), program % parts


@triton.jit
def _vectors(start, index, stride, inside, HEAD: tl.constexpr, D: tl.constexpr, ALL: tl.constexpr):
    """Vectors at `index [X]`: `[X, D]`, zero outside; `ALL`: none is outside."""
    d = tl.arange(0, D)
    at = start + index[:, None] * stride + d[None, :]
    if ALL and HEAD == D:
        vectors = tl.load(at)
    elif ALL:
        vectors = tl.load(at, mask=(d < HEAD)[None, :], other=0.0)
    elif HEAD == D:
        vectors = tl.load(at, mask=inside[:, None], other=0.0)
    else:
        vectors = tl.load(at, mask=inside[:, None] & (d < HEAD)[None, :], other=0.0)
    return vectors


@triton.jit
def _store(start, vectors, index, stride, inside, HEAD: tl.constexpr, D: tl.constexpr):
    d = tl.arange(0, D)
    at = start + index[:, None] * stride + d[None, :]
    tl.store(at, vectors.to(start.dtype.element_ty), mask=inside[:, None] & (d < HEAD)[None, :])


@triton.jit
def _other(
    first, group, rows, columns, wide, others,
    WIDE: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Patches `[K]` that are keys `first .. first + K` of a group's other columns, and if they are any."""
    place = first + tl.arange(0, K)
    there = place < GROUP * others
    if WIDE:
        row = group * GROUP + place // others
        at, there = row * columns + wide + place % others, there & (row < rows)
    else:  # all columns are others
        at = group * GROUP * others + place
        there &= at < rows * columns
    return at, there


@triton.jit
def _attend(logits, added, v, total, most, weight):
    """One more tile of a softmax: weighted sum `[A, D]`, largest logit `[A]`, sum of weights `[A]`.

    `added [A]` belongs to all logits of the tile.
    """
    largest = tl.maximum(most, tl.max(logits, 1) + added)
    share = tl.exp2(logits - (largest - added)[:, None])
    shrink = tl.exp2(most - largest)
    weight = weight * shrink + tl.sum(share, 1)
    return tl.dot(share.to(v.dtype), v, total * shrink[:, None]), largest, weight


@triton.jit
def forward(
    q_ptr, k_ptr, v_ptr, row_ptr, column_ptr, other_ptr, table_ptr, pk_ptr, pv_ptr, hidden_ptr,
    out_ptr, lse_ptr,
    stride_w, stride_h, stride_n, prompt_w, prompt_h, prompt_n, hidden_w, out_w, out_h, out_n,
    heads, rows, columns, wide, filled, others, prompt, length, factor,
    WIDE: tl.constexpr, EVEN: tl.constexpr, GROUP: tl.constexpr, E: tl.constexpr,
    HEAD: tl.constexpr, D: tl.constexpr, A: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Output and the logarithm of the softmax's sum, of `A` queries of one head of one window."""
    patches = rows * columns
    pair, part = _pair(length // A)
    window, head = pair // heads, pair % heads
    index, place = part * A + tl.arange(0, A), tl.arange(0, K)
    inside, own, offset = index < patches, pair * patches, window * stride_w + head * stride_h
    q = _vectors(q_ptr + offset, index, stride_n, inside, HEAD, D, False)
    total = tl.zeros((A, D), tl.float32)
    most = tl.full((A,), float("-inf"), tl.float32)
    weight = tl.zeros((A,), tl.float32)
    # patches come first: there is one in every tile, and the largest logit is a number from then on
    if WIDE:
        for first in range(0, wide, K):
            to_columns = _vectors(column_ptr + own * filled + first, index, filled, inside, K, K, False)
            to_columns = to_columns.to(tl.float32) * factor
            to_rows = row_ptr + pair * rows * length + index
            coming = tl.load(to_rows)
            for row in range(rows):
                to_row = coming.to(tl.float32) * factor
                # for the next row, while this one is computed: one number per query waits for memory
                coming = tl.load(to_rows + min(row + 1, rows - 1) * length)
                at = row * columns + first + place
                k = _vectors(k_ptr + offset, at, stride_n, first + place < wide, HEAD, D, EVEN)
                logits = tl.dot(q, tl.trans(k)) * factor + to_columns
                v = _vectors(v_ptr + offset, at, stride_n, first + place < wide, HEAD, D, EVEN)
                total, most, weight = _attend(logits, to_row, v, total, most, weight)
    if GROUP > 0:
        tiles = (GROUP * others + K - 1) // K
        for tile in range(tl.cdiv(rows, GROUP) * tiles):
            group, first = tile // tiles, tile % tiles * K
            terms = other_ptr + (pair * tl.cdiv(rows, GROUP) + group) * patches * E
            to_others = _vectors(terms, index, E, inside, E, E, False)
            table = _vectors(table_ptr, first + place, E, inside, E, E, True)
            at, there = _other(first, group, rows, columns, wide, others, WIDE, GROUP, K)
            k = _vectors(k_ptr + offset, at, stride_n, there, HEAD, D, False)
            logits = tl.dot(to_others, tl.trans(table), tl.dot(q, tl.trans(k))) * factor
            v = _vectors(v_ptr + offset, at, stride_n, there, HEAD, D, False)
            total, most, weight = _attend(logits, 0.0, v, total, most, weight)
    before = window * prompt_w + head * prompt_h
    for first in range(0, prompt, K):
        there = first + place < prompt
        k = _vectors(pk_ptr + before, first + place, prompt_n, there, HEAD, D, False)
        hidden = tl.load(hidden_ptr + window * hidden_w + first + place)
        logits = tl.dot(q, tl.trans(k)) * factor + hidden[None, :]
        v = _vectors(pv_ptr + before, first + place, prompt_n, there, HEAD, D, False)
        total, most, weight = _attend(logits, 0.0, v, total, most, weight)
    out = out_ptr + window * out_w + head * out_h
    _store(out, total / weight[:, None], index, out_n, inside, HEAD, D)
    tl.store(lse_ptr + pair * length + index, most + tl.log2(weight))


@triton.jit
def _gradient(logits, lse, delta, gradient, v):
    """Of the logits `[A, K]`, in float32, from the output's `gradient [A, D]`."""
    of_share = tl.dot(gradient, tl.trans(v))
    return tl.exp2(logits - lse[:, None]) * (of_share - delta[:, None])


@triton.jit
def backward_of_queries(
    q_ptr, k_ptr, v_ptr, row_ptr, column_ptr, other_ptr, table_ptr, pk_ptr, pv_ptr, hidden_ptr,
    out_ptr, lse_ptr, gradient_ptr, delta_ptr, of_q_ptr, of_row_ptr, of_column_ptr, of_other_ptr,
    stride_w, stride_h, stride_n, prompt_w, prompt_h, prompt_n, hidden_w, out_w, out_h, out_n,
    heads, rows, columns, wide, filled, others, prompt, length, factor, scale,
    WIDE: tl.constexpr, EVEN: tl.constexpr, GROUP: tl.constexpr, E: tl.constexpr,
    HEAD: tl.constexpr, D: tl.constexpr, A: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Gradients of `A` queries and of what they add to logits; `delta` for the other kernel."""
    patches = rows * columns
    pair, part = _pair(length // A)
    window, head = pair // heads, pair % heads
    index, place = part * A + tl.arange(0, A), tl.arange(0, K)
    inside, own, offset = index < patches, pair * patches, window * stride_w + head * stride_h
    q = _vectors(q_ptr + offset, index, stride_n, inside, HEAD, D, False)
    given = window * out_w + head * out_h
    gradient = _vectors(gradient_ptr + given, index, out_n, inside, HEAD, D, False)
    out = _vectors(out_ptr + given, index, out_n, inside, HEAD, D, False)
    delta = tl.sum(out.to(tl.float32) * gradient.to(tl.float32), 1)
    tl.store(delta_ptr + pair * length + index, delta)
    lse = tl.load(lse_ptr + pair * length + index)
    of_q = tl.zeros((A, D), tl.float32)
    if WIDE:
        for first in range(0, wide, K):
            to_columns = _vectors(column_ptr + own * filled + first, index, filled, inside, K, K, False)
            to_columns = to_columns.to(tl.float32) * factor
            of_columns = tl.zeros((A, K), tl.float32)
            to_rows = row_ptr + pair * rows * length + index
            before = (first // K) * (tl.num_programs(0) // (length // A))  # other tiles of columns
            of_rows = of_row_ptr + (before + pair) * rows * length + index
            coming = tl.load(to_rows)
            for row in range(rows):
                to_row = coming.to(tl.float32) * factor
                coming = tl.load(to_rows + min(row + 1, rows - 1) * length)
                at = row * columns + first + place
                k = _vectors(k_ptr + offset, at, stride_n, first + place < wide, HEAD, D, EVEN)
                logits = tl.dot(q, tl.trans(k)) * factor + to_columns
                v = _vectors(v_ptr + offset, at, stride_n, first + place < wide, HEAD, D, EVEN)
                of_logits = _gradient(logits, lse - to_row, delta, gradient, v)
                of_q = tl.dot(of_logits.to(k.dtype), k, of_q)
                of_columns += of_logits
                tl.store(of_rows + row * length, tl.sum(of_logits, 1))
            _store(of_column_ptr + own * filled + first, of_columns, index, filled, inside, K, K)
    if GROUP > 0:
        tiles = (GROUP * others + K - 1) // K
        of_terms = tl.zeros((A, E), tl.float32)
        for tile in range(tl.cdiv(rows, GROUP) * tiles):
            group, first = tile // tiles, tile % tiles * K
            terms = (pair * tl.cdiv(rows, GROUP) + group) * patches * E
            to_others = _vectors(other_ptr + terms, index, E, inside, E, E, False)
            table = _vectors(table_ptr, first + place, E, inside, E, E, True)
            at, there = _other(first, group, rows, columns, wide, others, WIDE, GROUP, K)
            k = _vectors(k_ptr + offset, at, stride_n, there, HEAD, D, False)
            logits = tl.dot(to_others, tl.trans(table), tl.dot(q, tl.trans(k))) * factor
            v = _vectors(v_ptr + offset, at, stride_n, there, HEAD, D, False)
            of_logits = _gradient(logits, lse, delta, gradient, v).to(k.dtype)
            of_q = tl.dot(of_logits, k, of_q)
            # a group's first tile begins anew, its last one stores the sum of all
            of_terms = tl.dot(of_logits, table, of_terms * (first > 0).to(tl.float32))
            _store(of_other_ptr + terms, of_terms, index, E, inside, E, E)
    before = window * prompt_w + head * prompt_h
    for first in range(0, prompt, K):
        there = first + place < prompt
        k = _vectors(pk_ptr + before, first + place, prompt_n, there, HEAD, D, False)
        hidden = tl.load(hidden_ptr + window * hidden_w + first + place)
        logits = tl.dot(q, tl.trans(k)) * factor + hidden[None, :]
        v = _vectors(pv_ptr + before, first + place, prompt_n, there, HEAD, D, False)
        of_q = tl.dot(_gradient(logits, lse, delta, gradient, v).to(k.dtype), k, of_q)
    _store(of_q_ptr + own * HEAD, of_q * scale, index, HEAD, inside, HEAD, D)


@triton.jit
def backward_of_keys(
    q_ptr, k_ptr, v_ptr, row_ptr, term_ptr, table_ptr, hidden_ptr,
    lse_ptr, gradient_ptr, delta_ptr, of_k_ptr, of_v_ptr,
    stride_w, stride_h, stride_n, key_w, key_h, key_n, hidden_w, out_w, out_h, out_n,
    heads, rows, columns, wide, filled, others, keys, length, tiles, factor, scale,
    KIND: tl.constexpr, WIDE: tl.constexpr, GROUP: tl.constexpr, E: tl.constexpr,
    HEAD: tl.constexpr, D: tl.constexpr, A: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of `K` keys and values of one `KIND`, of which there are `keys` in all.

    `E` terms of a query and rows of the table make what it adds to keys; of tiles of a row that is 1 each.
    """
    patches, place = rows * columns, tl.arange(0, K)
    pair, tile = _pair(tiles)
    window, head = pair // heads, pair % heads
    first_column, row = tile // rows * K, tile % rows  # of the first kind
    start, terms = tile * K, term_ptr + pair * patches * filled
    if KIND == ROWS:
        at, there = row * columns + first_column + place, first_column + place < wide
        start, terms = 0, terms + first_column
    elif KIND == OTHERS:
        of_group = (GROUP * others + K - 1) // K
        start, group = tile % of_group * K, tile // of_group
        at, there = _other(start, group, rows, columns, wide, others, WIDE, GROUP, K)
        terms = term_ptr + (pair * tl.cdiv(rows, GROUP) + group) * patches * filled
    else:
        at, there = start + place, start + place < keys
    offset = window * key_w + head * key_h
    k = _vectors(k_ptr + offset, at, key_n, there, HEAD, D, False)
    v = _vectors(v_ptr + offset, at, key_n, there, HEAD, D, False)
    if KIND == PROMPT:
        hidden = tl.load(hidden_ptr + window * hidden_w + start + place)
    else:
        table = _vectors(table_ptr, start + place, E, there, E, E, True)
    q_start, given = q_ptr + window * stride_w + head * stride_h, window * out_w + head * out_h
    of_k = tl.zeros((K, D), tl.float32)
    of_v = tl.zeros((K, D), tl.float32)
    for first in range(0, patches, A):
        index = first + tl.arange(0, A)
        inside = index < patches
        q = _vectors(q_start, index, stride_n, inside, HEAD, D, False)
        lse = tl.load(lse_ptr + pair * length + index)
        logits = tl.dot(k, tl.trans(q))  # [K, A]
        if KIND == PROMPT:
            logits = logits * factor + hidden[:, None]
        else:
            to_keys = _vectors(terms, index, filled, inside, E, E, False)
            logits = tl.dot(table, tl.trans(to_keys), logits) * factor
        if KIND == ROWS:
            lse -= tl.load(row_ptr + (pair * rows + row) * length + index).to(tl.float32) * factor
        share = tl.exp2(logits - lse[None, :])
        gradient = _vectors(gradient_ptr + given, index, out_n, inside, HEAD, D, False)
        of_v = tl.dot(share.to(gradient.dtype), gradient, of_v)
        delta = tl.load(delta_ptr + pair * length + index)
        of_logits = share * (tl.dot(v, tl.trans(gradient)) - delta[None, :])
        of_k = tl.dot(of_logits.to(q.dtype), q, of_k)
    _store(of_k_ptr + pair * keys * HEAD, of_k * scale, at, HEAD, there, HEAD, D)
    _store(of_v_ptr + pair * keys * HEAD, of_v, at, HEAD, there, HEAD, D)
