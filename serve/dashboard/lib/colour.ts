import { rgb } from "d3-color";
import { interpolateMagma, interpolateRdBu, interpolateViridis } from "d3-scale-chromatic";

export type Palette = "decibels" | "activation" | "signed" | "mark";

/** A colour for each of 256 steps, as red, green, blue, alpha. */
export type Colours = Uint8ClampedArray;

const interpolators = { decibels: interpolateMagma, activation: interpolateViridis };

/** The palette for numbers between `min` and `max`: `signed` if they lie on both sides of 0. */
export function fitting(min: number, max: number): Palette {
  return min < -0.02 * (max - min) && max > 0 ? "signed" : "activation";
}

/** The colours of numbers that go from `min` to `max` in 255 steps. */
export function colours(palette: Palette, min: number, max: number): Colours {
  const found = new Uint8ClampedArray(256 * 4);
  const most = Math.max(Math.abs(min), Math.abs(max)) || 1;
  for (let step = 0; step < 256; step++) {
    found.set(colour(palette, step / 255, (min + (step / 255) * (max - min)) / most), step * 4);
  }
  return found;
}

/** `share` is the position of a number between the minimum (0) and the maximum (1); `signed` is within -1 and 1. */
function colour(palette: Palette, share: number, signed: number): number[] {
  if (palette === "mark") return [0, 229, 255, 200 * share];
  const text = palette === "signed" ? interpolateRdBu(0.5 - signed / 2) : interpolators[palette](share);
  const { r, g, b } = rgb(text);
  return [r, g, b, 255];
}
