import { useEffect, useRef, useState } from "react";
import { Trouble } from "./api";

/** Run a request while `wanted` is not null. A new value of `wanted` cancels the previous request. */
export function useAsked<T>(wanted: string | null, ask: (signal: AbortSignal) => Promise<T>) {
  const [state, setState] = useState<{ of: string | null; found?: T; trouble?: Trouble }>({ of: null });
  const latest = useRef(ask);
  latest.current = ask;
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    if (wanted === null) return;
    const control = new AbortController();
    latest.current(control.signal).then(
      (found) => !control.signal.aborted && setState({ of: wanted, found }),
      (error: unknown) => !control.signal.aborted && setState({ of: wanted, trouble: Trouble.of(error) }),
    );
    return () => control.abort();
  }, [wanted, turn]);
  const current = state.of === wanted && wanted !== null;
  return {
    found: current ? state.found : undefined,
    trouble: current ? state.trouble : undefined,
    waiting: wanted !== null && !current,
    again: () => {
      setState({ of: null });
      setTurn((before) => before + 1);
    },
  };
}

/** The last result, until the next one arrives. */
export function useKept<T>(found: T | undefined): T | undefined {
  const kept = useRef<T | undefined>(undefined);
  if (found !== undefined) kept.current = found;
  return found ?? kept.current;
}
