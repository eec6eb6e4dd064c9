"""Check the built site: links lead to a page and a place, pictures have a text, nothing is fetched.

    python docs/check_site.py docs/_build/html

Links to other servers are only counted; ``sphinx-build -b linkcheck docs docs/_build/links`` asks
for each of them.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
"""What a browser fetches by itself, and the attribute with its address."""


class Page(HTMLParser):
    """The ids, links and faults of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.ids, self.links, self.faults = path, {""}, [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag means for the checks."""
        found = {name: value or "" for name, value in attrs}
        self.ids.add(found.get("id", ""))
        if tag == "img" and not found.get("alt", "").strip():
            self.faults.append(f"a picture without a text: {found.get('src', '')[:60]}")
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        address = found.get(FETCHED.get(tag, ""), "")
        if urlsplit(address).netloc:
            self.faults.append(f"fetches {address}")
        elif address and not address.startswith("data:"):
            self.links.append(address)


def check(folder: Path) -> tuple[int, list[str]]:
    """Return the number of links in the pages of a folder, and what is wrong with the pages."""
    found = [path for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts]
    pages = {path.resolve(): Page(path) for path in found}
    faults = [f"{page.path}: {fault}" for page in pages.values() for fault in page.faults]
    for here, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (here.parent / unquote(parts.path)).resolve() if parts.path else here
            other = pages.get(target)
            if not target.is_file() or (other and unquote(parts.fragment) not in other.ids):
                faults.append(f"{page.path}: leads nowhere: {link}")
    return sum(len(page.links) for page in pages.values()), faults


def main() -> None:
    """Check the folder named; exit 1 if anything is wrong."""
    count, faults = check(Path(sys.argv[1]))
    print(*faults, f"{count:,} links, {len(faults)} faults", sep="\n")
    sys.exit(bool(faults or not count))


if __name__ == "__main__":
    main()
