import type { Trouble } from "@/lib/api";
import { Button } from "./ui/button";

/** An error, with the advice to the user and the server's details. */
export function Problem({ trouble, onAgain }: { trouble: Trouble; onAgain: () => void }) {
  return (
    <div role="alert" data-trouble={trouble.name} className="rounded-xl border border-bad bg-card p-4">
      <p className="font-medium text-bad">{trouble.sentence}</p>
      {trouble.detail && <p className="mt-1 text-sm text-faint">Details from the server: {trouble.detail}</p>}
      <Button className="mt-3" onClick={onAgain}>
        Try again
      </Button>
    </div>
  );
}
