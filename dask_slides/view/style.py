"""The page around the viewer: its HTML, and its colours in light and dark.

Text has a contrast of at least 4.5 and borders of at least 3 (WCAG 2.2, AA) in both.
"""

from __future__ import annotations

WIDGET = """
:host { color: var(--ink); font: 14px/1.4 system-ui, sans-serif; --bokeh-font-size: 14px;
        --bokeh-base-font: 14px; --color: var(--ink); overflow-wrap: anywhere; }
.bk-input, .bk-btn { background: var(--paper); color: var(--ink); border: 1px solid var(--line);
                     min-height: 30px; }
select.bk-input { appearance: auto !important; background-image: none !important; }
.bk-btn { white-space: normal; }
.bk-btn:hover { background: var(--shade); color: var(--ink); }
.bk-btn.bk-active { background: var(--accent) !important; color: var(--paper) !important;
                    border-color: var(--accent) !important; }
.bk-btn:disabled { opacity: 1; color: var(--ink); border-style: dashed; cursor: default; }
:focus-visible { outline: 3px solid var(--accent) !important; outline-offset: 1px; }
label, .bk-input-group > label, .bk-slider-title { color: var(--ink); white-space: normal; }
.noUi-target { background: var(--shade); border-color: var(--line); box-shadow: none; }
.noUi-connect { background: var(--accent) !important; }
.noUi-handle { background: var(--paper); border: 2px solid var(--ink); box-shadow: none; }
input[type=checkbox] { accent-color: var(--accent); width: 16px; height: 16px; }
h2 { font-size: 15px; margin: 0 }
img { max-width: 100%; image-rendering: auto; border: 1px solid var(--line) }
ul { margin: 0; padding-left: 1.2em }
"""
"""The style of every widget; Bokeh shields each of them from the style of the page."""

TEMPLATE = """{% from macros import embed %}
{% block preamble %}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light; --ink: #1b1f24; --paper: #ffffff; --shade: #eef1f4; --line: #6b7280;
        --accent: #0b5cad; }
@media (prefers-color-scheme: dark) { :root:not([data-theme=light]) {
  color-scheme: dark; --ink: #e8ebee; --paper: #15191c; --shade: #262c32; --line: #98a2ad;
  --accent: #7cc0ff; } }
:root[data-theme=dark] { color-scheme: dark; --ink: #e8ebee; --paper: #15191c; --shade: #262c32;
  --line: #98a2ad; --accent: #7cc0ff; }
html > body { background: var(--paper); color: var(--ink); font: 14px/1.4 system-ui, sans-serif;
              display: flex; flex-direction: column; height: 100vh; }
header { display: flex; flex-wrap: wrap; gap: 0 16px; align-items: center; padding: 6px 12px; }
header h1 { font-size: 17px; margin: 0; overflow-wrap: anywhere; }
header div.root { min-width: 0; }
main { display: grid; grid-template-columns: minmax(0, 1fr) 330px; gap: 12px; padding: 0 12px 6px;
       flex: 1; min-height: 520px; grid-template-rows: minmax(0, 1fr); }
#pictures { display: flex; flex-direction: column; gap: 6px; min-width: 0; min-height: 0; }
#messages { display: flex; gap: 0 12px; min-height: 30px; }
#messages > :last-child > * { width: auto !important; max-width: 45%; flex: none; }
#figures { display: flex; gap: 6px; flex: 1; min-height: 300px; }
#figures > div { flex: 1; min-width: 150px; min-height: 150px; border: 1px solid var(--line);
                 position: relative; display: flex; }
#figures > div.empty { position: absolute; visibility: hidden; width: 150px; height: 150px; }
#figures > div:focus-visible { outline: 3px solid var(--accent); }
aside { overflow-y: auto; min-width: 0; padding-right: 6px; }
aside section { border-top: 1px solid var(--line); padding: 8px 0; }
aside h2 { font-size: 15px; margin: 0 0 4px; }
@media (max-width: 800px) {
  html > body { height: auto; }
  main { grid-template: auto / minmax(0, 1fr); }
  #figures { height: 62vh; flex: none; flex-direction: column; }
  aside { overflow: visible; padding: 0 0 60px; }
  #messages { position: fixed; inset: auto 0 0; z-index: 9; min-height: 0; padding: 0 12px;
              background: var(--paper); border-top: 1px solid var(--line); }
}
</style>
{% endblock %}
{% block contents %}
<header><h1>{{ heading | e }}</h1><div class="root">{{ embed(roots.choice) }}</div></header>
<main>
<section id="pictures" aria-label="Slide">
  {{ embed(roots.moves) }}
  <div id="figures">
    <div id="slide" tabindex="0" role="group" aria-label="{{ heading | e }}: arrow keys move, plus
and minus zoom, 0 shows the whole slide, 1 its full resolution">{{ embed(roots.slide) }}</div>
    <div id="beside" class="empty" tabindex="0" role="group" aria-label="Beside the slide: the same
keys">{{ embed(roots.beside) }}</div>
  </div>
  <div id="messages">{{ embed(roots.status) }}{{ embed(roots.readout) }}</div>
</section>
<aside aria-label="Controls">
{% for name, title in sections %}
<section aria-labelledby="{{ name }}-title"><h2 id="{{ name }}-title">{{ title }}</h2>
{{ embed(roots[name]) }}</section>
{% endfor %}
</aside>
</main>
<script>
(function start() {
  const page = window.Bokeh?.documents[0];
  const drawn = page?.roots().every((root) => Bokeh.index.find_one_by_id(root.id)?.el.isConnected);
  if (drawn) page.get_model_by_name("start").execute(null);
  else requestAnimationFrame(start);
})();
</script>
{% endblock %}
"""

POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self' ws://{host} wss://{host}; "
    "base-uri 'none'; form-action 'none'"
)
"""The browser loads nothing from elsewhere. Bokeh makes functions of text (CustomJS)."""

SECTIONS = (
    ("tile", "Tile"),
    ("layers", "Layers"),
    ("threshold", "Blank map"),
    ("channels", "Channels and contrast"),
    ("cut", "Beside the slide"),
    ("correct", "Correct the blank map"),
)
"""Names and titles of the groups of controls, of which a page has those that it needs."""
