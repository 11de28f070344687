import { useEffect, useRef } from "react";
import type { Colours } from "@/lib/colour";
import type { Grid } from "@/lib/grid";

/** A grid's numbers as pixels, the first row at the bottom; the element's size is the style's. */
export function Pixels({
  of,
  colours,
  className = "",
}: {
  of: Grid;
  colours: Colours;
  className?: string;
}) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context) return;
    const image = context.createImageData(of.columns, of.rows);
    const target = new Uint32Array(image.data.buffer);
    const source = new Uint32Array(colours.buffer);
    for (let row = 0; row < of.rows; row++) {
      const from = (of.rows - 1 - row) * of.columns;
      for (let column = 0; column < of.columns; column++) {
        target[row * of.columns + column] = source[of.bytes[from + column] ?? 0] ?? 0;
      }
    }
    context.putImageData(image, 0, 0);
  }, [of, colours]);
  return <canvas ref={canvas} width={of.columns} height={of.rows} className={className} />;
}
