"""The page of a review: a player and a field for each clip, and a button that saves the answers.

It is one file, and loads only the clips beside it. Its Content-Security-Policy allows one script
and one style, by their hashes, so that no name of a recording or class can act as script or style.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from audiocnn.review.selection import SELECTION_REASONS, Pick
from audiocnn.storage.csv_cells import FORMULA

COLUMNS = ("uri", "label", "suggested", "score", "why", "source", "start_s", "end_s")
"""Columns of `review.csv`, a manifest for `ingest`."""


@dataclass(frozen=True, kw_only=True)
class ReviewClip:
    """A picked window and its sound file."""

    path: str
    """Path of the sound file, below the folder of the review."""
    name: str
    """Name of the recording, for people."""
    pick: Pick

    @property
    def cells(self) -> tuple[str | float, ...]:
        """Its row of `review.csv`; the label is empty, for a person to fill in."""
        pick = self.pick
        score, start_s, end_s = (round(v, 6) for v in (pick.score, pick.start_s, pick.end_s))
        return self.path, "", pick.suggested, score, pick.why, pick.uri, start_s, end_s


def page(clips: Sequence[ReviewClip], classes: Sequence[str], bucket: str, bundle: str) -> str:
    """Return the HTML page; `bundle` is the fingerprint of the bundle that made the labels."""
    identity = json.dumps([bundle, *(clip.cells for clip in clips)])
    options = "".join(f'<option value="{escape(name)}"></option>' for name in classes)
    policy = (
        f"default-src 'none'; style-src '{_hash(_STYLE)}'; script-src '{_hash(_SCRIPT)}'; "
        "media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    title = f"Review of {len(clips)} windows"
    reasons = "".join(
        f'<dt><span class="why {why}">{why}</span></dt><dd>{text}</dd>'
        for why, text in SELECTION_REASONS.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<title>{title}</title><style>{_STYLE}</style></head>
<body data-review="{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
 data-columns="{_json(COLUMNS)}" data-formula="{escape(FORMULA)}">
<header><h1>{title}</h1>
<p>of <bdi>{escape(bucket)}</bdi>, labelled by bundle <code>{escape(bundle)}</code>. Listen to
each clip and enter its label: one of the classes, or a name of your own. Clips without a label are
not used. Enter moves to the next clip. Replace the <code>review.csv</code> beside this page with
the saved file; <code>audiocnn ingest review.csv</code> reads the labels.</p>
<details><summary>Why these windows?</summary><dl>{reasons}</dl></details></header>
<noscript><p><strong>Without JavaScript, fill in the column <code>label</code> of
<code>review.csv</code>.</strong></p></noscript>
<div class="bar"><output id="done"></output><progress id="part" value="0" max="{len(clips)}">
</progress><button type="button" id="save">Save review.csv</button></div>
<datalist id="classes">{options}</datalist>
<ol>{"".join(_clip(number, clip) for number, clip in enumerate(clips, 1))}</ol>
<script>{_SCRIPT}</script></body></html>
"""


def _clip(number: int, clip: ReviewClip) -> str:
    pick = clip.pick
    suggested = escape(pick.suggested)
    return f"""
<li class="clip" data-cells="{_json(clip.cells)}"><div class="sound">
<audio controls preload="none" src="{escape(clip.path)}" aria-label="clip {number}"></audio>
<p class="where"><bdi>{escape(clip.name)}</bdi>
<span>{pick.start_s:.2f} &ndash; {pick.end_s:.2f} s</span></p></div>
<div class="answer"><p>
<span class="why {pick.why}">{pick.why}</span> <bdi class="suggested">{suggested}</bdi>
<span class="score">{pick.score:.3f}</span></p><p class="field">
<input list="classes" placeholder="what is it?" autocomplete="off" spellcheck="false"
 aria-label="label of clip {number}">
<button type="button" class="take" data-label="{suggested}">as suggested</button></p></div></li>"""


def _json(cells: Sequence[str | float]) -> str:
    return escape(json.dumps(cells))


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5a6b7b; --line: #d5dde4;
        --paper: #f5f7f9; --card: #fff; --accent: #0b6bcb; --on-accent: #fff; --done: #1d8348;
        --amber: #8f5a12; --pink: #a0327d; --teal: #1f7080; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e9ef; --soft: #93a3b3; --line: #313d49; --paper: #12181f; --card: #1a222b;
          --accent: #5aa9f5; --on-accent: #0b1016; --done: #57c785;
          --amber: #e0a84c; --pink: #e584c4; --teal: #62c3d6; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 58rem; margin: 0 auto;
       padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } header p { max-width: 46rem; margin: .5rem 0; }
code { color: var(--soft); } bdi { overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1rem; } dd { margin: 0; }
.bar { position: sticky; top: 0; z-index: 1; display: flex; gap: 1rem; align-items: center;
       padding: .7rem 0; margin: .5rem 0; background: var(--paper);
       border-bottom: 1px solid var(--line); }
.bar progress { flex: 1; min-width: 3rem; accent-color: var(--done); }
button { font: inherit; color: var(--accent); background: none; cursor: pointer;
         border: 1px solid var(--line); border-radius: .4rem; padding: .35rem .7rem; }
button:hover { border-color: var(--accent); }
#save { color: var(--on-accent); background: var(--accent); border-color: var(--accent); }
ol { list-style: none; padding: 0; margin: 1rem 0; }
.clip { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: .5rem 1.5rem;
        padding: .9rem 1rem; margin: .7rem 0; background: var(--card);
        border: 1px solid var(--line); border-left: 4px solid var(--line); border-radius: .5rem; }
.clip.labelled { border-left-color: var(--done); }
.clip p { margin: 0; } .clip audio { display: block; width: 100%; height: 2.6rem; }
.where { display: flex; gap: 1rem; justify-content: space-between; color: var(--soft);
         font-size: .85rem; padding-top: .4rem; } .where span { white-space: nowrap; }
.suggested { font-weight: 650; } .score { color: var(--soft); }
.why { font-size: .75rem; padding: .1rem .5rem; margin-right: .3rem; border-radius: 1rem;
       border: 1px solid currentColor; white-space: nowrap; }
.uncertain { color: var(--amber); } .surprising { color: var(--pink); }
.rare { color: var(--teal); }
.field { display: flex; gap: .5rem; padding-top: .5rem; }
input { flex: 1; min-width: 0; font: inherit; color: inherit; background: var(--paper);
        border: 1px solid var(--line); border-radius: .4rem; padding: .35rem .6rem; }
input:focus-visible, button:focus-visible { outline: 2px solid var(--accent); }
@media (max-width: 40rem) { .clip { grid-template-columns: minmax(0, 1fr); } }
"""

_SCRIPT = """
"use strict";
const { review, columns, formula } = document.body.dataset;
const begins = new RegExp("^(?:" + formula + ")");
const clips = [...document.querySelectorAll(".clip")];
const fields = clips.map((clip) => clip.querySelector("input"));
const kept = "audiocnn-review-" + review;
let unsaved = false;

function answers() { return fields.map((field) => field.value.trim()); }

function show() {
  const labels = answers();
  clips.forEach((clip, at) => clip.classList.toggle("labelled", labels[at] !== ""));
  const done = labels.filter(Boolean).length;
  document.getElementById("done").value = `${done} of ${clips.length} labelled`;
  document.getElementById("part").value = done;
}

function changed() {
  unsaved = true;
  try { localStorage.setItem(kept, JSON.stringify(answers())); unsaved = false; } catch { }
  show();
}

function next(at) {
  if (at + 1 === clips.length) return;
  document.querySelectorAll("audio").forEach((sound) => sound.pause());
  fields[at + 1].focus();
  clips[at + 1].scrollIntoView({ block: "center" });
  clips[at + 1].querySelector("audio").play().catch(() => {});
}

function cell(value) {
  const text = typeof value === "string" && begins.test(value) ? "'" + value : String(value);
  return '"' + text.replaceAll('"', '""') + '"';
}

function save() {
  const labels = answers();
  const rows = clips.map((clip, at) => {
    const cells = JSON.parse(clip.dataset.cells);
    cells[1] = labels[at];
    return cells;
  });
  const lines = [JSON.parse(columns), ...rows].map((row) => row.map(cell).join(",") + "\\r\\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "text/csv" }));
  link.download = "review.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  unsaved = false;
}

try {
  const before = JSON.parse(localStorage.getItem(kept)) ?? [];
  fields.forEach((field, at) => { field.value = before[at] ?? ""; });
} catch { }
fields.forEach((field, at) => {
  field.addEventListener("input", changed);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) next(at);
  });
  clips[at].querySelector(".take")?.addEventListener("click", (event) => {
    field.value = event.currentTarget.dataset.label;
    changed();
    field.focus();
  });
});
document.getElementById("save").addEventListener("click", save);
addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
show();
"""
