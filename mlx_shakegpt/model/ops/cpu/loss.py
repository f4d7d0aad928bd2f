"""Cross-entropy over the vocabulary, by itself and with the head before it."""

from __future__ import annotations

import mlx.core as mx

from .formulas import custom, exp_between, row_sums

ROWS = 256  # rows whose logits exist at one time


@custom
def cross_entropy(logits, targets, absent):
    nll, e, total = _scores(logits, targets, absent)
    return nll, e, total


@cross_entropy.vjp
def _cross_entropy_vjp(primals, cotangents, outputs):
    _, targets, absent = primals
    d = _logits_gradient(targets, cotangents[0], *outputs[1:])
    return d, mx.zeros_like(targets), mx.zeros_like(absent)


@custom
def head_loss(states, weight, targets, shares, absent):
    """The sum of shares * cross_entropy(states @ weight.T, targets, absent), with its gradients
    and the losses (N,).

    `shares` are known beforehand, so the gradients need not wait for the backward pass: of a few
    rows at a time, logits are made, used and dropped (as in Liger's fused loss, Hsu et al., 2024).
    """
    loss, nlls, dstates, dweight = mx.array(0.0), [], [], None
    for start in range(0, len(states), ROWS):
        part = slice(start, start + ROWS)
        x = states[part]
        if dweight is not None:
            (x,) = mx.depends([x], [dweight, nlls[-1]])  # not before the last logits are dropped
        nll, e, total = _scores(x @ weight.T, targets[part], absent)
        nlls.append(nll)
        loss = loss + (nll * shares[part]).sum()
        d = _logits_gradient(targets[part], shares[part], e, total)
        dstates.append(d @ weight)
        dweight = d.T @ x if dweight is None else mx.addmm(dweight, d.T, x)
    return loss, mx.concatenate(dstates), dweight, mx.concatenate(nlls)


@head_loss.vjp
def _head_loss_vjp(primals, cotangents, outputs):
    g = cotangents[0]
    return g * outputs[1], g * outputs[2], *(mx.zeros_like(x) for x in primals[2:])


def _scores(
    logits: mx.array, targets: mx.array, absent: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """Loss (N,), exponentials (N, R) and their sums (N, 1)."""
    last = logits.shape[-1] - 1
    top = logits.max(-1, keepdims=True)
    more = mx.where(mx.arange(last + 1) == last, mx.log(absent), 0.0)
    e = exp_between(logits, top, more)
    # A product with ones: MLX's own sum of 50,000 terms is off in the fourth digit.
    total = row_sums(e)
    own = mx.take_along_axis(logits, targets[:, None], axis=-1)
    return (top + mx.log(total) - own).squeeze(-1), e, total


def _logits_gradient(targets: mx.array, g: mx.array, e: mx.array, total: mx.array) -> mx.array:
    d = e * (g[:, None] / total)
    return d.at[mx.arange(d.shape[0]), targets].add(-g)
