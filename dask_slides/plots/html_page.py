"""An HTML page of pictures and facts in one file, which loads nothing and runs no script.

Its content security policy (W3C CSP 3) makes browsers enforce this even if a text is not escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape

from dask_slides.plots.pictures import image_html

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem;
       padding: 0 1rem; color: #222; background: #fff }
figure { margin: 2rem 0 } img { max-width: 100%; border: 1px solid #ddd }
figcaption { margin-top: .25rem } th { text-align: left; padding-right: 1rem; font-weight: 600 }
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; img-src data:; style-src 'sha256-{_DIGEST}'; base-uri 'none'; "
    "form-action 'none'"
)
"""Allows only embedded pictures and the style with this digest."""


def page(title: str, facts: Mapping[str, str], pictures: Sequence[tuple[str, bytes]]) -> str:
    """Return a page with `facts` and `pictures` (caption, PNG). All text is escaped."""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>\n"
        for name, value in facts.items()
    )
    figures = "".join(
        f"<figure>{image_html(caption, png)}<figcaption>{escape(caption)}</figcaption></figure>\n"
        for caption, png in pictures
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<table>\n{rows}</table>\n{figures}</body>\n</html>\n"
    )
