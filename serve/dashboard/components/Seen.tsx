import { useMemo } from "react";
import type { PredictAnswer } from "@/lib/api";
import { clock, frequencyTicks, hertz } from "@/lib/axes";
import { colours } from "@/lib/colour";
import { type Grid, grid } from "@/lib/grid";
import type { Player } from "@/lib/player";
import { At, Figure } from "./Figure";
import { Legend } from "./Legend";
import { Pixels } from "./Pixels";

const marks = colours("mark", 0, 1);

/** The log-mel of a window, which is the model's input, and the marked places over it. */
export function Seen({
  input,
  player,
  mark,
}: {
  input: NonNullable<PredictAnswer["input"]>;
  player: Player;
  mark: { of: Grid; what: string } | null;
}) {
  const seen = useMemo(() => grid(input.values), [input]);
  const shades = useMemo(() => colours("decibels", seen.min, seen.max), [seen]);
  const span = { from: input.start_s, to: input.end_s };
  return (
    <Figure
      span={span}
      player={player}
      axis
      className="h-56"
      label={`Log-mel spectrogram: ${seen.rows} bands, ${seen.columns} frames, ${clock(span.from)} to ${clock(span.to)}${
        mark ? `; marked: ${mark.what}` : ""
      }`}
      left={frequencyTicks(input.band_hz).map(({ hz, top }) => (
        <At key={hz} top={top} className="absolute right-0 -translate-y-1/2 whitespace-nowrap">
          {hertz(hz)}
        </At>
      ))}
      right={<Legend colours={shades} min={seen.min} max={seen.max} unit={input.unit} />}
    >
      <Pixels of={seen} colours={shades} className="absolute inset-0 h-full w-full" />
      {mark && <Pixels of={mark.of} colours={marks} className="smooth absolute inset-0 h-full w-full" />}
    </Figure>
  );
}
