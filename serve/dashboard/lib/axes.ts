/** Round numbers within a range, about `count` of them. */
export function ticks(from: number, to: number, count: number): number[] {
  const raw = (to - from) / Math.max(1, count);
  if (!(raw > 0)) return [from];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= raw) ?? 10);
  const first = Math.ceil(from / step - 1e-9);
  const last = Math.floor(to / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, at) => Number(((first + at) * step).toFixed(6)));
}

const frequencies = [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000];

/** Frequencies to write beside the bands, each with its position: the fraction of the height from the top. */
export function frequencyTicks(bandHz: number[]): { hz: number; top: number }[] {
  const last = bandHz.length - 1;
  const all = frequencies.flatMap((hz) => {
    const above = bandHz.findIndex((centre) => centre >= hz);
    if (above <= 0) return [];
    const low = bandHz[above - 1] ?? hz;
    const high = bandHz[above] ?? hz;
    const band = above - 1 + (hz - low) / (high - low);
    return [{ hz, top: 1 - (band + 0.5) / (last + 1) }];
  });
  // From the top down. Leave out frequencies that are so near the previous one that the texts overlap.
  let above = -1;
  return all.reverse().filter(({ top }) => top - above > 0.08 && (above = top) >= 0);
}

export function hertz(hz: number): string {
  return hz >= 1_000 ? `${Number((hz / 1_000).toFixed(1))} kHz` : `${Math.round(hz)} Hz`;
}

/** 5.25 -> "5.3 s", 75 -> "1:15". */
export function clock(seconds: number): string {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

export function short(value: number): string {
  return Number(value.toPrecision(3)).toString();
}
