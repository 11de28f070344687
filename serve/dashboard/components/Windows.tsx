import { useEffect, useMemo, useState } from "react";
import { labelledSound, type LabelledWindow, Trouble } from "@/lib/api";
import { clock } from "@/lib/axes";
import { type Corrections, place } from "@/lib/corrections";
import { Player } from "@/lib/player";
import { At } from "./Figure";
import { Problem } from "./Problem";
import { Button } from "./ui/button";

/** Rows of labelled windows. Each can be played, inspected, and marked as right or wrong. */
export function Windows({
  rows,
  names,
  corrections,
  onCorrect,
  looked,
  onLook,
}: {
  rows: LabelledWindow[];
  names: string[];
  corrections: Corrections;
  /** The label: empty if the window is only marked as wrong, undefined if the mark is removed. */
  onCorrect: (row: LabelledWindow, label: string | undefined) => void;
  looked: string | undefined;
  onLook: (row: LabelledWindow) => void;
}) {
  const listening = useListening();
  return (
    <>
      {listening.trouble && <Problem trouble={listening.trouble} onAgain={listening.again} />}
      <datalist id="names">
        {names.map((name) => (
          <option key={name} value={name} />
        ))}
      </datalist>
      <ul aria-label="Windows" className="divide-y divide-line">
        {rows.map((row) => {
          const at = place(row);
          const said = corrections[at];
          return (
            <li
              key={at}
              data-window={at}
              aria-current={at === looked || undefined}
              className="grid gap-x-4 gap-y-1 py-2 aria-[current]:bg-line/40 sm:grid-cols-[minmax(0,1fr)_auto]"
            >
              <div className="min-w-0">
                <p className="flex items-baseline gap-2">
                  <strong className="font-medium">{row.label}</strong>
                  <span className="text-sm tabular-nums">{(100 * row.score).toFixed(1)} %</span>
                  <span className="relative h-1.5 w-16 self-center overflow-hidden rounded-full bg-line">
                    <At width={row.score} className="absolute inset-y-0 left-0 rounded-full bg-accent" />
                  </span>
                </p>
                <p className="truncate text-xs text-faint" title={row.uri}>
                  {row.name}, {clock(row.start_s)}
                </p>
              </div>
              <div className="flex flex-wrap items-center gap-1.5">
                <Button onClick={() => listening.toggle(row)} aria-label={`Play ${row.name} at ${clock(row.start_s)}`}>
                  {listening.to === at ? "Stop" : "Play"}
                </Button>
                <Button onClick={() => onLook(row)} aria-label={`Inspect ${row.name} at ${clock(row.start_s)}`}>
                  Inspect
                </Button>
                <Verdict row={row} said={said?.label} onSay={(label) => onCorrect(row, label)} />
              </div>
            </li>
          );
        })}
      </ul>
    </>
  );
}

function Verdict({
  row,
  said,
  onSay,
}: {
  row: LabelledWindow;
  said: string | undefined;
  onSay: (label: string | undefined) => void;
}) {
  const right = said === row.label;
  const wrong = said !== undefined && !right;
  const pressed = "aria-pressed:border-accent aria-pressed:outline-2 aria-pressed:outline-accent";
  return (
    <span className="flex flex-wrap items-center gap-1.5">
      {row.label !== "unknown" && (
        <Button
          aria-pressed={right}
          aria-label={`Right: ${row.label}`}
          className={pressed}
          onClick={() => onSay(right ? undefined : row.label)}
        >
          Right
        </Button>
      )}
      <Button aria-pressed={wrong} className={pressed} onClick={() => onSay(wrong ? undefined : "")}>
        Wrong
      </Button>
      {wrong && (
        <input
          list="names"
          value={said}
          placeholder="right class"
          aria-label={`Right class of ${row.name} at ${clock(row.start_s)}`}
          autoComplete="off"
          spellCheck={false}
          autoFocus={said === ""}
          onChange={(event) => onSay(event.target.value)}
          className="min-h-9 w-36 rounded-md border border-line bg-card px-2 text-sm"
        />
      )}
    </span>
  );
}

/** Play one window's sound at a time. */
function useListening() {
  const player = useMemo(() => new Player(), []);
  const [row, setRow] = useState<LabelledWindow | null>(null);
  const [trouble, setTrouble] = useState<Trouble | null>(null);
  useEffect(() => player.subscribe((_, playing) => !playing && player.ended && setRow(null)), [player]);
  useEffect(() => {
    if (!row) return;
    const control = new AbortController();
    let url = "";
    labelledSound(row.uri, row.start_s, control.signal).then(
      (sound) => {
        url = URL.createObjectURL(sound);
        player.load(url);
        void player.play();
      },
      (error: unknown) => {
        if (control.signal.aborted) return;
        setRow(null);
        setTrouble(Trouble.of(error));
      },
    );
    return () => {
      control.abort();
      player.pause();
      if (url) URL.revokeObjectURL(url);
    };
  }, [player, row]);
  return {
    to: row ? place(row) : undefined,
    trouble,
    again: () => setTrouble(null),
    toggle: (of: LabelledWindow) => {
      setTrouble(null);
      setRow(row && place(row) === place(of) ? null : of);
    },
  };
}
