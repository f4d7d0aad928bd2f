"""A text as HTML, with what stands in the learned text marked."""

from __future__ import annotations

from html import escape

from ..text.quotations import Source, covered, longest, pieces

STYLE = """
.said { white-space: pre-wrap; font-family: ui-monospace, monospace; line-height: 1.6;
        min-height: 12em; padding: 0.75em; border: 1px solid var(--border-color-primary);
        border-radius: 8px; overflow-wrap: anywhere; }
.said .prompt { opacity: 0.65; }
.said mark { background: color-mix(in srgb, #2e9e5b 26%, transparent); color: inherit;
             border-radius: 3px; cursor: help; }
.told { opacity: 0.75; font-size: 0.9em; }
"""


def plain(prompt: str, text: str) -> str:
    """What has been said so far."""
    return f'<div class="said"><span class="prompt">{escape(prompt)}</span>{escape(text)}</div>'


def marked(prompt: str, text: str, source: Source) -> str:
    """What was said, with its known spans; the pointer over one shows its line."""
    whole, parts = prompt + text, []
    spans = source.spans(whole)
    for piece, span in pieces(whole, spans):
        where = span and f"line {span.line:,} of the learned text, {span.words} words"
        parts.append(f'<mark title="{where}">{escape(piece)}</mark>' if where else escape(piece))
    summary = f"Known word for word: {covered(spans, whole):.0%}. Longest: {longest(spans)} words."
    return f'<div class="said">{"".join(parts)}</div><p class="told">{summary}</p>'
