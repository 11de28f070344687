import { useEffect, useState } from "react";
import type { PredictAnswer, WindowAnswer } from "@/lib/api";
import { clock } from "@/lib/axes";
import type { Player } from "@/lib/player";
import { At, Cursor, Figure, type Span, TimeAxis } from "./Figure";
import { Button } from "./ui/button";
import { Card } from "./ui/card";
import { Waveform } from "./Waveform";

/** The whole recording: playback, the waveform and, if there are several, the windows. */
export function Recording({
  name,
  answer,
  player,
  looked,
  onLook,
}: {
  name: string;
  answer: PredictAnswer;
  player: Player;
  looked: number;
  onLook: (window: number) => void;
}) {
  const { recording, waveform, windows } = answer;
  const span = { from: 0, to: waveform.duration_s };
  const facts = `${recording.container}, ${recording.sample_rate_hz / 1000} kHz, ${
    recording.channels === 1 ? "mono" : `${recording.channels} channels`
  }, ${clock(recording.duration_s)}`;
  return (
    <Card title={name} aside={<span className="text-sm text-faint">{facts}</span>}>
      <Controls player={player} duration={waveform.duration_s} />
      <Figure span={span} player={player} label={`Waveform of ${clock(span.to)}`} className="h-20" axis={windows.length < 2}>
        <Waveform of={waveform} />
      </Figure>
      {windows.length > 1 && <Timeline {...{ windows, span, player, looked, onLook }} />}
    </Card>
  );
}

function Controls({ player, duration }: { player: Player; duration: number }) {
  const [state, setState] = useState({ time: 0, playing: false });
  useEffect(() => player.subscribe((time, playing) => setState({ time, playing })), [player]);
  return (
    <div className="mb-3 flex items-center gap-3">
      <Button look="main" onClick={() => (state.playing ? player.pause() : void player.play())}>
        {state.playing ? "Pause" : "Play"}
      </Button>
      <input
        type="range"
        aria-label="Position"
        aria-valuetext={clock(state.time)}
        min={0}
        max={duration}
        step={0.05}
        value={Math.min(state.time, duration)}
        onChange={(event) => player.seek(Number(event.target.value))}
        className="h-9 min-w-0 flex-1 accent-(--accent)"
      />
      <span className="text-sm text-faint tabular-nums">
        {clock(state.time)} / {clock(duration)}
      </span>
    </div>
  );
}

const hues = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999"];

/** The windows of a long recording, each a button coloured by its label. */
function Timeline({
  windows,
  span,
  player,
  looked,
  onLook,
}: {
  windows: WindowAnswer[];
  span: Span;
  player: Player;
  looked: number;
  onLook: (window: number) => void;
}) {
  const labels = [...new Set(windows.map((window) => window.label))];
  const hue = (label: string) =>
    label === "unknown" ? "transparent" : (hues[labels.indexOf(label) % hues.length] ?? "");
  return (
    <div className="mt-2">
      <div className="grid grid-cols-[3.5rem_minmax(0,1fr)_4rem] gap-x-2 text-xs text-faint">
        <div role="group" aria-label="Windows" className="relative col-start-2 h-9">
          {windows.map((window, at) => (
            <At
              key={window.start_s}
              left={window.start_s / span.to}
              width={(Math.min(windows[at + 1]?.start_s ?? span.to, window.end_s) - window.start_s) / span.to}
              className="absolute inset-y-0 p-px"
            >
              <button
                type="button"
                aria-pressed={at === looked}
                aria-label={`${clock(window.start_s)}: ${window.label}, ${Math.round(100 * window.score)} %`}
                title={`${clock(window.start_s)}: ${window.label}, ${Math.round(100 * window.score)} %`}
                onClick={() => onLook(at)}
                style={{ background: hue(window.label), opacity: 0.35 + 0.65 * window.score }}
                className="h-full w-full cursor-pointer rounded-sm border border-faint aria-pressed:outline-3 aria-pressed:outline-ink"
              />
            </At>
          ))}
          <Cursor span={span} player={player} />
        </div>
        <TimeAxis span={span} />
      </div>
      <ul className="mt-1.5 ml-16 flex flex-wrap gap-x-4 gap-y-1 text-xs text-faint">
        {labels.map((label) => (
          <li key={label} className="flex items-center gap-1.5">
            <span className="size-2.5 rounded-sm border border-faint" style={{ background: hue(label) }} />
            {label}
          </li>
        ))}
      </ul>
    </div>
  );
}
