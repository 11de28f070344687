import { useCallback, useSyncExternalStore } from "react";

/** What is looked at; the part of it that can be shared is in the URL's fragment. */
export interface View {
  /** One of the server's own sounds; a person's file cannot be in a URL. */
  sample?: string;
  /** The generated sound beside it; empty while there is none yet. */
  beside?: string;
  window?: number;
  /** The class that evidence is shown for. */
  explain?: string;
  /** The map whose channels are shown, and the channel that is shown large. */
  layer?: string;
  channel?: number;
  sort?: "index" | "activation";
}

const changed = "audiocnn:view";

export function parse(fragment: string): View {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const number = (name: string) => {
    const text = given.get(name);
    return text !== null && /^\d{1,6}$/.test(text) ? Number(text) : undefined;
  };
  return {
    sample: given.get("sample") ?? undefined,
    beside: given.get("beside") ?? undefined,
    window: number("window"),
    explain: given.get("explain") ?? undefined,
    layer: given.get("layer") ?? undefined,
    channel: number("channel"),
    sort: given.get("sort") === "index" ? "index" : undefined,
  };
}

export function format(view: View): string {
  const given = Object.entries(view).filter(([, value]) => value !== undefined);
  return new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
}

function subscribe(listener: () => void): () => void {
  window.addEventListener("hashchange", listener);
  window.addEventListener(changed, listener);
  return () => {
    window.removeEventListener("hashchange", listener);
    window.removeEventListener(changed, listener);
  };
}

/** The view of the URL, and how to change some of it. */
export function useView(): [View, (change: View) => void] {
  const fragment = useSyncExternalStore(
    subscribe,
    () => location.hash,
    () => "",
  );
  const change = useCallback((some: View) => {
    const text = format({ ...parse(location.hash), ...some });
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
    window.dispatchEvent(new Event(changed));
  }, []);
  return [parse(fragment), change];
}
