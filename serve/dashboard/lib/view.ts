import { useCallback, useSyncExternalStore } from "react";

/** The state of the page. The part that can be shared is in the URL's fragment. */
export interface View {
  /** Name of a generated sound; a user's own file cannot be in a URL. */
  sample?: string;
  /** Name of the generated sound to compare with; empty if none is chosen yet, undefined if there is no comparison. */
  beside?: string;
  /** Set if the second bundle's answer is shown beside the first one's. */
  versus?: "bundle";
  window?: number;
  /** The class to show evidence for. */
  explain?: string;
  /** The layer to show the channels of, and the channel that is shown large. */
  layer?: string;
  channel?: number;
  sort?: "index" | "activation";
  /** Set if the labelled bucket is shown. The fields below are its filters, and the window that is inspected. */
  bucket?: "open";
  label?: string;
  name?: string;
  lowest?: number;
  highest?: number;
  order?: "lowest" | "name";
  page?: number;
  uri?: string;
  start?: number;
}

const changed = "audiocnn:view";

export function parse(fragment: string): View {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const number = (name: string) => {
    const text = given.get(name);
    return text !== null && /^\d{1,9}$/.test(text) ? Number(text) : undefined;
  };
  const decimal = (name: string) => {
    const text = given.get(name);
    return text !== null && /^\d{1,9}(\.\d{1,20})?$/.test(text) ? Number(text) : undefined;
  };
  const order = given.get("order");
  return {
    sample: given.get("sample") ?? undefined,
    beside: given.get("beside") ?? undefined,
    versus: given.get("versus") === "bundle" ? "bundle" : undefined,
    window: number("window"),
    explain: given.get("explain") ?? undefined,
    layer: given.get("layer") ?? undefined,
    channel: number("channel"),
    sort: given.get("sort") === "index" ? "index" : undefined,
    bucket: given.get("bucket") === "open" ? "open" : undefined,
    label: given.get("label") ?? undefined,
    name: given.get("name") ?? undefined,
    lowest: decimal("lowest"),
    highest: decimal("highest"),
    order: order === "lowest" || order === "name" ? order : undefined,
    page: number("page"),
    uri: given.get("uri") ?? undefined,
    start: decimal("start"),
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

/** The view in the URL, and a function that changes some fields of it. */
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
