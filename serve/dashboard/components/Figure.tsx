import { type PointerEvent, type ReactNode, useEffect, useRef } from "react";
import { clock, ticks } from "@/lib/axes";
import type { Player } from "@/lib/player";

/** A time range, in seconds of the recording. */
export interface Span {
  from: number;
  to: number;
}

/** A drawing over the time axis, with something to its left and to its right. */
export function Figure({
  span,
  player,
  label,
  left,
  right,
  axis = false,
  className = "h-40",
  children,
}: {
  span: Span;
  player: Player;
  /** Description of the drawing for screen readers. */
  label: string;
  left?: ReactNode;
  right?: ReactNode;
  axis?: boolean;
  className?: string;
  children: ReactNode;
}) {
  const seek = (event: PointerEvent<HTMLDivElement>) => {
    const box = event.currentTarget.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    player.seek(span.from + share * (span.to - span.from));
  };
  return (
    <figure className="grid grid-cols-[3.5rem_minmax(0,1fr)_4rem] gap-x-2 text-xs text-faint">
      <div className={`relative text-right ${className}`}>{left}</div>
      <div
        role="img"
        aria-label={label}
        onPointerDown={seek}
        className={`relative cursor-crosshair overflow-hidden rounded-sm ${className}`}
      >
        {children}
        <Cursor span={span} player={player} />
      </div>
      <div className={`relative ${className}`}>{right}</div>
      {axis && <TimeAxis span={span} />}
    </figure>
  );
}

export function TimeAxis({ span }: { span: Span }) {
  const length = span.to - span.from;
  return (
    <div aria-hidden className="relative col-start-2 mt-1 h-4">
      {ticks(span.from, span.to, 6).map((time) => (
        <At key={time} left={(time - span.from) / length} className="absolute -translate-x-1/2 whitespace-nowrap tabular-nums">
          {clock(time)}
        </At>
      ))}
    </div>
  );
}

/** Something at a share of its parent's width or height. A strict policy forbids style in HTML. */
export function At({
  left,
  top,
  width,
  height,
  className,
  children,
}: {
  left?: number;
  top?: number;
  width?: number;
  height?: number;
  className?: string;
  children?: ReactNode;
}) {
  const percent = (share: number | undefined) =>
    share === undefined ? undefined : `${(100 * share).toFixed(3)}%`;
  return (
    <span
      className={className}
      style={{ left: percent(left), top: percent(top), width: percent(width), height: percent(height) }}
    >
      {children}
    </span>
  );
}

/** The playback position; hidden if it is outside the span. */
export function Cursor({ span, player }: { span: Span; player: Player }) {
  const line = useRef<HTMLDivElement>(null);
  useEffect(
    () =>
      player.subscribe((time) => {
        const element = line.current;
        if (!element) return;
        const share = (time - span.from) / (span.to - span.from);
        element.style.left = `${100 * share}%`;
        element.hidden = share < 0 || share > 1;
      }),
    [player, span.from, span.to],
  );
  return (
    <div ref={line} data-cursor hidden className="pointer-events-none absolute inset-y-0 w-px bg-white shadow-[0_0_0_1px_#000b]" />
  );
}
