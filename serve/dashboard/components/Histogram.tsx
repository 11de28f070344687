import { At } from "./Figure";

/** The number of windows by score. A bar selects its range of scores; the selected bar selects all scores again. */
export function Histogram({
  counts,
  lowest,
  highest,
  onRange,
}: {
  counts: number[];
  lowest: number;
  highest: number;
  onRange: (lowest: number | undefined, highest: number | undefined) => void;
}) {
  const most = Math.max(1, ...counts);
  const edge = (at: number) => Number((at / counts.length).toFixed(4));
  const within = (at: number) => edge(at) >= lowest && edge(at + 1) <= highest;
  const chosen = lowest > 0 || highest < 1;
  return (
    <div className="mb-4">
      <div role="group" aria-label="Windows by score" className="flex h-20 items-stretch gap-px">
        {counts.map((count, at) => {
          const from = edge(at);
          const to = edge(at + 1);
          const pressed = chosen && within(at);
          const text = `${from} to ${to}: ${count} windows`;
          return (
            <button
              key={from}
              type="button"
              aria-pressed={pressed}
              aria-label={text}
              title={text}
              onClick={() => (lowest === from && highest === to ? onRange(undefined, undefined) : onRange(from, to))}
              className="group relative min-w-0 flex-1 cursor-pointer rounded-sm hover:bg-line"
            >
              <At
                top={1 - Math.max(count / most, count ? 0.03 : 0)}
                className={`absolute inset-x-0 bottom-0 rounded-t-sm ${within(at) ? "bg-accent" : "bg-faint opacity-40"}`}
              />
            </button>
          );
        })}
      </div>
      <div aria-hidden className="mt-1 flex justify-between text-xs text-faint tabular-nums">
        {[0, 0.25, 0.5, 0.75, 1].map((score) => (
          <span key={score}>{score}</span>
        ))}
      </div>
      <p className="text-center text-xs text-faint">
        {chosen ? `score ${lowest} to ${highest}; press the bar again to show all` : "score; press a bar to show only its windows"}
      </p>
    </div>
  );
}
