"""What a verification looks like to people. Pure functions of its figures; nothing here prints."""

from __future__ import annotations

from typing import Any

from .certificates import comparable
from .comparison import Comparison
from .figures import clear_share


def summary(figures: dict[str, Any]) -> str:
    """The figures of a verification as text."""
    return "\n\n".join((_loss(figures), _recall(figures), _controls(figures), _end(figures)))


def changes(before: dict[str, Any], figures: dict[str, Any]) -> list[str]:
    """Lines that show each compared figure of a certificate and of a verification."""
    mine = comparable(figures)
    return [
        f"  {name:<10} {stated:.6f} → {mine[name]:.6f}  ({mine[name] - stated:+.6f})"
        for name, stated in comparable(before).items()
        if name in mine
    ]


def comparison_text(comparison: Comparison) -> str:
    """Which figures of a certificate were compared, and which were not."""
    names = list(dict.fromkeys(name.partition(".")[0] for name in comparison.compared))
    lines = [f"Compared, {len(comparison.compared)} entries: {', '.join(names)}."]
    if comparison.not_compared:
        lines.append(f"Not compared: {', '.join(comparison.not_compared)}.")
    return "\n".join(lines)


def _loss(f: dict[str, Any]) -> str:
    return (
        f"loss       {f['nll']:.6f} nats a token; floor {f['floor']:.6f}, "
        f"excess {f['excess']:.6f}\n"
        f"           {f['bits_per_byte']:.5f} bits a byte; {f['bits']:,.0f} bits in all "
        f"(bz2 {f['bits_bz2']:,}, xz {f['bits_xz']:,})\n"
        f"accuracy   {f['accuracy']:.4f} teacher-forced, over {f['tokens']:,} tokens; "
        f"{f['determined_accuracy']:.4f} of those that the text before them determines"
    )


def _recall(f: dict[str, Any]) -> str:
    lines = []
    for e in f["extraction"]:
        where = "every offset" if e["every_offset"] else f"[{e['low']:.4f}, {e['high']:.4f}]"
        line = f"em@{e['k']},{e['m']}   {e['rate']:.4f}  {where}, {e['offsets']:,} offsets"
        if e["ambiguous"]:
            line += f", {e['ambiguous']:,} of them with more than one answer"
        if "p_z_half" in e:
            line += f"; sampled with a chance of one half: {e['p_z_half']:.4f}"
        lines.append(line)
    r = f["free_running"]
    score = f"score@{f['extraction'][0]['k']},{r['score_tokens']} {r['score']:.4f}"
    agreement = "agree with teacher forcing" if r["agrees"] else "DISAGREE with teacher forcing"
    lines.append(
        f"free runs  {agreement}; {len(r['offsets'])} runs of at most {r['followed']} tokens: "
        f"median {r['median']:.0f}, 5 % below {r['p5']:.0f}, shortest {r['shortest']}; "
        f"right to their end {r['whole']:.4f}, with the text's other continuations "
        f"{r['right']:.4f}; {score}"
    )
    rates = f["alignment"]
    lines.append(
        f"alignment  {min(rates):.4f} to {max(rates):.4f} over {len(rates)} parts of a window"
    )
    return "\n".join(lines)


def _controls(f: dict[str, Any]) -> str:
    lines = []
    for name, c in f["controls"].items():
        verdict = "PASSED, which it must not" if c["extracted"] else "fails, as it must"
        lines.append(f"control    {name}: {verdict}; {c['rate']:.4f} extracted, nll {c['nll']:.3f}")
    lines.append(f"causality  later tokens change earlier logits by {f['leak']:.2g}")
    return "\n".join(lines)


def _end(f: dict[str, Any]) -> str:
    lines = [
        f"line {w['line']:,}: {w['wrong']} of {w['tokens']} tokens wrong, {w['nll']:.3f} nats: "
        f"{w['text']}"
        for w in f["worst_lines"]
    ]
    required = f"the required rate is {f['require']:g}"
    verdict = f"CERTIFIED; {required}" if f["certified"] else f"NOT CERTIFIED; {required}"
    first = f["extraction"][0]
    measured = "all" if first["every_offset"] else f"{first['offsets']:,} of"
    verdict += (
        f"; {measured} {first['text_offsets']:,} offsets measured, and {clear_share(first):.1%} of "
        "all have a single answer that cannot be copied"
    )
    return "\n".join(["worst lines" if lines else "no line has a wrong token", *lines, "", verdict])
