import { useCallback, useMemo, useSyncExternalStore } from "react";
import type { LabelledWindow } from "./api";

/** The label that a person gave a window; empty if the window is only marked as wrong. */
export interface Correction {
  uri: string;
  start_s: number;
  label: string;
}

export type Corrections = Record<string, Correction>;

const changed = "audiocnn:corrections";

/** The key of a window among the corrections. */
export function place(of: { uri: string; start_s: number }): string {
  return `${of.start_s} ${of.uri}`;
}

function subscribe(listener: () => void): () => void {
  window.addEventListener(changed, listener);
  window.addEventListener("storage", listener); // another tab
  return () => {
    window.removeEventListener(changed, listener);
    window.removeEventListener("storage", listener);
  };
}

function parse(text: string): Corrections {
  try {
    return JSON.parse(text) as Corrections;
  } catch {
    return {}; // another program wrote this item
  }
}

/** The corrections of one labelled bucket, which this browser keeps, and functions that change them. */
export function useCorrections(bundle: string, bucket: string) {
  const name = `audiocnn.corrections ${bundle} ${bucket}`;
  const text = useSyncExternalStore(
    subscribe,
    () => localStorage.getItem(name) ?? "{}",
    () => "{}",
  );
  const all = useMemo(() => parse(text), [text]);
  const write = useCallback(
    (now: Corrections) => {
      localStorage.setItem(name, JSON.stringify(now));
      window.dispatchEvent(new Event(changed));
    },
    [name],
  );
  const correct = useCallback(
    (of: LabelledWindow, label: string | undefined) => {
      const { [place(of)]: _, ...others } = parse(localStorage.getItem(name) ?? "{}");
      write(label === undefined ? others : { ...others, [place(of)]: { uri: of.uri, start_s: of.start_s, label } });
    },
    [name, write],
  );
  return { all, correct, forget: () => write({}) };
}
