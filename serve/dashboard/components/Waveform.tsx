import { useEffect, useMemo, useRef } from "react";
import { values } from "@/lib/grid";
import type { PredictAnswer } from "@/lib/api";

/** The peaks that the server computed: minimum and maximum sample of equal time ranges. */
export function Waveform({ of }: { of: PredictAnswer["waveform"] }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [low, high] = useMemo(() => [values(of.min), values(of.max)], [of]);
  useEffect(() => {
    const element = canvas.current;
    const context = element?.getContext("2d");
    if (!element || !context) return;
    const draw = () => {
      const { width, height } = element;
      const most = Math.max(0.05, ...high.map(Math.abs), ...low.map(Math.abs));
      const y = (value: number) => height / 2 - (value / most) * (height / 2 - 1);
      context.clearRect(0, 0, width, height);
      context.fillStyle = getComputedStyle(element).color;
      high.forEach((top, at) => {
        const bottom = low[at] ?? 0;
        context.fillRect(at, y(top), 1, Math.max(1, y(bottom) - y(top)));
      });
    };
    draw();
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", draw);
    return () => scheme.removeEventListener("change", draw);
  }, [low, high]);
  return <canvas ref={canvas} width={high.length} height={160} className="smooth h-full w-full text-accent" />;
}
