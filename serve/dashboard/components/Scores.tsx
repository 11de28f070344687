import type { PredictAnswer, WindowAnswer } from "@/lib/api";
import { clock } from "@/lib/axes";
import { At } from "./Figure";
import { Card } from "./ui/card";

/** The label, and the scores of the best classes as bars. */
export function Scores({ answer, looked }: { answer: PredictAnswer; looked: number }) {
  const several = answer.windows.length > 1;
  const window = answer.windows[looked];
  return (
    <Card
      title="Prediction"
      aside={<span className="text-sm text-faint">bundle {answer.bundle}</span>}
    >
      <Verdict of={answer} />
      <Bars of={answer} />
      {several && window && (
        <>
          <h3 className="mt-5 mb-2 text-sm font-medium text-faint">
            The window at {clock(window.start_s)}: {window.label}
          </h3>
          <Bars of={window} />
        </>
      )}
    </Card>
  );
}

function Verdict({ of }: { of: WindowAnswer }) {
  const best = of.predictions[0]?.class ?? "";
  return (
    <p className="mb-3" aria-live="polite">
      <strong data-testid="label" className="text-2xl font-semibold">
        {of.label}
      </strong>
      <span className="ml-2 text-faint">
        {of.known
          ? `${(100 * of.score).toFixed(1)} %`
          : `the score of the best class, ${best}, is below its threshold`}
      </span>
    </p>
  );
}

function Bars({ of }: { of: WindowAnswer }) {
  return (
    <ol className="grid gap-1.5">
      {of.predictions.map((one) => (
        <li key={one.class} className="grid grid-cols-[minmax(5rem,10rem)_1fr_3.5rem] items-center gap-2 text-sm">
          <span className="truncate" title={one.class}>
            {one.class}
          </span>
          <span className="relative h-3 overflow-hidden rounded-full bg-line">
            <At width={one.score} className="absolute inset-y-0 left-0 rounded-full bg-accent" />
          </span>
          <span className="text-right tabular-nums">{(100 * one.score).toFixed(1)} %</span>
        </li>
      ))}
    </ol>
  );
}
