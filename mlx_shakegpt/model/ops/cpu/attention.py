"""Causal attention, and its heads."""

from __future__ import annotations

import mlx.core as mx

from .formulas import custom, exp_below, row_sums

BLOCK = 128  # queries that share one product with the keys up to the last of them


@custom
def split_heads(qkv, heads):
    """(B, T, 3C) to q, k and v, (B, H, T, D) each, every head contiguous: MLX's products would
    copy a transposed view each time. `heads` is an array of one number for each head."""
    B, T, _ = qkv.shape
    H = heads.shape[0]
    x = mx.contiguous(qkv.reshape(B, T, 3 * H, -1).transpose(0, 2, 1, 3))
    return x[:, :H], x[:, H : 2 * H], x[:, 2 * H :]


@split_heads.vjp
def _split_heads_vjp(primals, cotangents, _):
    qkv, heads = primals
    dx = mx.concatenate([g.transpose(0, 2, 1, 3) for g in cotangents], axis=2)
    return dx.reshape(qkv.shape), mx.zeros_like(heads)


def _blocks(q: mx.array, k: mx.array) -> list[tuple[int, int, int]]:
    """Blocks of queries, [start, stop), and the number of keys that their last one sees."""
    T, before = q.shape[2], k.shape[2] - q.shape[2]
    return [(i, min(i + BLOCK, T), before + min(i + BLOCK, T)) for i in range(0, T, BLOCK)]


@custom
def attention(q, k, v):
    """softmax(q kᵀ / √D) v, (B, T, C), of (B, H, T, D); the last query sees all keys."""
    ys, es, reciprocals = [], [], []
    for start, stop, keys in _blocks(q, k):
        scores = q[:, :, start:stop] @ k[:, :, :keys].swapaxes(-1, -2)
        mask = (mx.tri(stop - start, keys, keys - stop + start) - 1) * 1e30
        masked = scores.reshape(-1, mask.size) * q.shape[-1] ** -0.5 + mask.reshape(1, -1)
        masked = masked.reshape(scores.shape)
        es.append(exp_below(masked, masked.max(-1, keepdims=True)))
        reciprocals.append(1 / row_sums(es[-1]))
        # Dividing the sums, (T, D), is less work than dividing the weights, (T, keys).
        y = (es[-1] @ v[:, :, :keys]) * reciprocals[-1]
        ys.append(y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1))
    return (mx.concatenate(ys, axis=1), *es, *reciprocals)


@attention.vjp
def _attention_vjp(primals, cotangents, outputs):
    """Through softmax as in FlashAttention (Dao et al., 2022, section 3.1): rowsum(p ∘ dp), over
    the keys, is rowsum(y ∘ g), over D."""
    q, k, v = primals
    B, H, T, D = q.shape
    blocks = _blocks(q, k)
    y, es, reciprocals = outputs[0], outputs[1 : 1 + len(blocks)], outputs[1 + len(blocks) :]
    sums = row_sums((cotangents[0] * y).reshape(B, T, H, D)).transpose(0, 2, 1, 3)
    gs = mx.contiguous(cotangents[0].reshape(B, T, H, D).transpose(0, 2, 1, 3))
    dqs, dks, dvs = [], [], []
    # From the last block, which has all keys: what the earlier ones do not see is then complete.
    dk, dv = mx.zeros(k.shape), mx.zeros(v.shape)
    for (start, stop, keys), e, r in reversed(list(zip(blocks, es, reciprocals, strict=True))):
        g = gs[:, :, start:stop] * r
        ds = e * (g @ v[:, :, :keys].swapaxes(-1, -2) - sums[:, :, start:stop] * r) * D**-0.5
        dqs.append(ds @ k[:, :, :keys])
        ds_t, e_t, block = ds.swapaxes(-1, -2), e.swapaxes(-1, -2), q[:, :, start:stop]
        if stop == T:
            dk, dv = ds_t @ block, e_t @ g
        else:
            dks.append(dk[:, :, keys:])
            dvs.append(dv[:, :, keys:])
            dk, dv = mx.addmm(dk[:, :, :keys], ds_t, block), mx.addmm(dv[:, :, :keys], e_t, g)
    dks.append(dk)
    dvs.append(dv)
    return tuple(mx.concatenate(parts[::-1], axis=2) for parts in (dqs, dks, dvs))
