"""A badge: two words side by side, such as the suite and its verdict, for the page of a model elsewhere."""

import html

from lit_unlearn.reports.figures.svg import GREY, PALETTE

TONES = {"good": PALETTE[2], "bad": PALETTE[0], "open": GREY}
_DARK = "#40444a"
_LETTER, _MARGIN, _HEIGHT = 6.5, 7.0, 20


def badge(name: str, value: str, tone: str) -> str:
    """An SVG file of its own.

    Args:
        name: on the left.
        value: on the right, on the colour of the tone.
        tone: one of :data:`TONES`.
    """
    widths = [_LETTER * len(text) + 2 * _MARGIN for text in (name, value)]
    whole, label = sum(widths), html.escape(f"{name}: {value}")
    texts = [
        f'<text x="{start + _MARGIN:g}" y="14" textLength="{width - 2 * _MARGIN:g}">{html.escape(text)}</text>'
        for start, width, text in ((0.0, widths[0], name), (widths[0], widths[1], value))
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole:g}" height="{_HEIGHT}" role="img" aria-label="{label}">'
        f'<rect width="{whole:g}" height="{_HEIGHT}" rx="3" fill="{_DARK}"/>'
        f'<path d="M{widths[0]:g} 0h{widths[1] - 3:g}a3 3 0 0 1 3 3v{_HEIGHT - 6}a3 3 0 0 1-3 3h-{widths[1] - 3:g}z"'
        f' fill="{TONES[tone]}"/>'
        f'<g fill="#fff" font-family="system-ui, sans-serif" font-size="11">{"".join(texts)}</g></svg>\n'
    )
