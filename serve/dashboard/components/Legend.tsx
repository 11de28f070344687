import { useMemo } from "react";
import { short } from "@/lib/axes";
import { type Colours } from "@/lib/colour";
import type { Grid } from "@/lib/grid";
import { Pixels } from "./Pixels";

const ramp: Grid = {
  rows: 256,
  columns: 1,
  bytes: Uint8Array.from({ length: 256 }, (_, at) => at),
  min: 0,
  max: 1,
};

/** The scale of colours, with the numbers at both ends and their unit. */
export function Legend({
  colours,
  min,
  max,
  unit = "",
}: {
  colours: Colours;
  min: number;
  max: number;
  unit?: string;
}) {
  const ends = useMemo(() => [max, min].map((value) => `${short(value)}${unit ? ` ${unit}` : ""}`), [max, min, unit]);
  return (
    <div className="flex h-full gap-1.5">
      <Pixels of={ramp} colours={colours} className="h-full w-2.5 rounded-sm" />
      <div className="flex flex-col justify-between leading-none tabular-nums whitespace-nowrap">
        <span>{ends[0]}</span>
        <span>{ends[1]}</span>
      </div>
    </div>
  );
}
