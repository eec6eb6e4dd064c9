"""Scripts of the page for those who use keys or a screen reader."""

from __future__ import annotations

MOVE = """
const [right, up, zoom] = move, w = x.end - x.start, h = y.end - y.start;
if (zoom < 1 && Math.max(w, h) / zoom > x.max_interval) return;
const cx = (x.start + x.end) / 2 + right * w, cy = (y.start + y.end) / 2 + up * h;
x.setv({start: cx - w / 2 / zoom, end: cx + w / 2 / zoom});
y.setv({start: cy - h / 2 / zoom, end: cy + h / 2 / zoom});
"""
"""Moves by parts of the view and zooms."""
KEYS = """
const moves = {ArrowLeft: [-.2, 0, 1], ArrowRight: [.2, 0, 1], ArrowUp: [0, .2, 1],
               ArrowDown: [0, -.2, 1], "+": [0, 0, 2], "=": [0, 0, 2], "-": [0, 0, .5]};
document.getElementById(place).addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in moves) step.execute(null, {move: moves[event.key]});
  else if (event.key == "0") whole.execute(null);
  else if (event.key == "1") full.execute(null);
  else return;
  event.preventDefault();
});
"""
"""Moves by keys where a figure has the focus."""
NAMES = """
const observer = new MutationObserver((records) => {
  for (const root of new Set(records.map((one) => one.target.getRootNode()))) visit(root);
});
const visit = (root) => {
  const parts = root.querySelectorAll(".noUi-handle, .bk-btn, .bk-spin-btn, .bk-events");
  const names = (root.host?.dataset.names ?? "").split("|");
  parts.forEach((part, number) => {
    if (names[number]) part.ariaLabel = names[number];
    if (root.host.role == "group") part.ariaPressed = part.classList.contains("bk-active");
    if (part.matches(".bk-spin-btn, .bk-events")) part.tabIndex = -1;
    if (part.matches(".bk-spin-btn")) part.ariaHidden = true;
  });
  for (const { shadowRoot } of root.querySelectorAll("*")) {
    if (!shadowRoot || seen.has(shadowRoot)) continue;
    seen.add(shadowRoot);
    observer.observe(shadowRoot, {childList: true, subtree: true, attributeFilter: ["class"]});
    visit(shadowRoot);
  }
};
const seen = new Set();
visit(document);
"""
"""Gives names to the parts of widgets, which Bokeh leaves without: those in the attribute
`data-names` of the widget. Says which button of a group is pressed. Tab leaves out the arrows of a
field of numbers, as its own keys do the same, and the inside of a figure, which has the focus
itself."""
