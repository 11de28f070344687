import { useEffect, useMemo, useRef } from "react";
import type { Colours } from "@/lib/colour";
import type { Grid } from "@/lib/grid";

interface Drawn {
  of: Grid;
  colours: Colours;
  className?: string;
}

/** Draw a grid's numbers as pixels, with the first row at the bottom. */
function draw(canvas: HTMLCanvasElement, of: Grid, colours: Colours): void {
  const context = canvas.getContext("2d");
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
}

/** A grid as pixels; CSS sets the element's size. */
export function Pixels({ of, colours, className = "" }: Drawn) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    if (canvas.current) draw(canvas.current, of, colours);
  }, [of, colours]);
  return <canvas ref={canvas} width={of.columns} height={of.rows} className={className} />;
}

/** A grid as an image, for lists of hundreds: a page with so many canvases does not scroll smoothly. */
export function Tile({ of, colours, className = "" }: Drawn) {
  const url = useMemo(() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: of.columns, height: of.rows });
    draw(canvas, of, colours);
    return canvas.toDataURL();
  }, [of, colours]);
  return <img src={url} alt="" className={className} />;
}
