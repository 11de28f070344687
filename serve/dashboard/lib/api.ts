import { clock } from "./axes";
import type { components, operations } from "./schema";

export type Card = components["schemas"]["Card"];
export type LabelsCard = components["schemas"]["LabelsCard"];
export type LabelledWindow = components["schemas"]["LabelledWindow"];
export type LabelledWindows = components["schemas"]["LabelledWindows"];
export type PredictAnswer = components["schemas"]["PredictAnswer"];
export type WindowAnswer = components["schemas"]["WindowAnswer"];
export type LabelsQuery = NonNullable<operations["_windows_v1_labels_windows_get"]["parameters"]["query"]>;
export type Options = NonNullable<operations["_predict_v1_predict_post"]["parameters"]["query"]>;

/** An error, with a sentence that says what to do about it. */
export class Trouble extends Error {
  constructor(
    readonly name: string,
    readonly sentence: string,
    readonly detail = "",
  ) {
    super(sentence);
  }

  /** Convert anything that was thrown. Every error that is not a Trouble is a bug of this page. */
  static of(error: unknown): Trouble {
    return error instanceof Trouble ? error : new Trouble("page", `This page failed: ${String(error)}`);
  }
}

const sentences: Record<string, string> = {
  empty: "There is no sound in this file. Choose another one.",
  key: "This server needs an API key. Enter it above.",
  origin: "The server does not accept requests from this address. Open the page at the address that the server listens on.",
  "slow-upload": "The upload took too long. Try again, or send a shorter or compressed recording.",
  "too-large": "The file is larger than this server accepts. Send a shorter or compressed recording.",
  "too-long": "The recording is longer than this server accepts. Cut it, or label it with `audiocnn label`.",
  "not-audio": "The audio format is not supported. Send WAV, FLAC, OGG or MP3.",
  audio: "The recording cannot be used: it is damaged, cut short or outside the limits.",
  rate: "There are too many requests with this key. Wait a moment, and try again.",
  changed: "The recording was changed or removed since it was labelled. Label the bucket again.",
  storage: "The server cannot reach the storage of the labels or recordings. See the server's log, and try again.",
  lost: "The replica that worked on the request was lost. Try again.",
  busy: "The server is busy. Wait a second, and try again.",
  "not-ready": "The server is not ready. Wait a moment, and try again.",
  "slow-answer": "The answer took too long. Try again, or send a shorter recording.",
  gone: "The server cannot be reached. Check that it still runs, and try again.",
};

const stored = "audiocnn.key";

export function key(): string {
  return sessionStorage.getItem(stored) ?? "";
}

/** Keep an API key until the tab is closed. */
export function setKey(value: string): void {
  sessionStorage.setItem(stored, value);
}

async function ask(path: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers: { ...init.headers, ...(key() ? { "x-api-key": key() } : {}) } });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Trouble("gone", sentences.gone ?? "");
  }
  if (response.ok) return response;
  const body: unknown = await response.json().catch(() => null);
  throw trouble(response.status, body);
}

function trouble(status: number, body: unknown): Trouble {
  const { type = "", title = "", detail = "" } = (body ?? {}) as Record<string, string>;
  const name = type.split("/").pop() ?? "";
  const otherwise = `The server answered ${status}${title ? `: ${title}` : ""}.`;
  return new Trouble(name, sentences[name] ?? otherwise, detail);
}

/** The description of the current bundle, or of the second one. */
export async function model(beside = false, signal?: AbortSignal): Promise<Card> {
  return (await (await ask(`v1/model?${asQuery({ beside })}`, { signal: signal ?? null })).json()) as Card;
}

function asQuery(options: object): URLSearchParams {
  return new URLSearchParams(
    Object.entries(options).flatMap(([name, value]) => (value == null ? [] : [[name, String(value)]])),
  );
}

/** The server's answer for a recording. */
export async function predict(sound: Blob, options: Options, signal: AbortSignal): Promise<PredictAnswer> {
  const query = asQuery(options);
  const body = sound.type ? sound : new Blob([sound], { type: "application/octet-stream" });
  const response = await ask(`v1/predict?${query}`, { method: "POST", body, signal });
  return (await response.json()) as PredictAnswer;
}

export async function samples(): Promise<string[]> {
  return (await (await ask("samples", {})).json()) as string[];
}

export async function sample(name: string): Promise<File> {
  const response = await ask(`samples/${encodeURIComponent(name)}.flac`, {});
  return new File([await response.blob()], `${name}.flac`, { type: "audio/flac" });
}

export async function labels(signal: AbortSignal): Promise<LabelsCard> {
  return (await (await ask("v1/labels", { signal })).json()) as LabelsCard;
}

/** Windows of the labelled bucket. */
export async function labelledWindows(query: LabelsQuery, signal: AbortSignal): Promise<LabelledWindows> {
  return (await (await ask(`v1/labels/windows?${asQuery(query)}`, { signal })).json()) as LabelledWindows;
}

/** The sound of a window of the labelled bucket. */
export async function labelledSound(uri: string, start_s: number, signal?: AbortSignal): Promise<File> {
  const response = await ask(`v1/labels/sound?${asQuery({ uri, start_s })}`, { signal: signal ?? null });
  const name = uri.split("/").pop() ?? uri;
  return new File([await response.blob()], `${name} at ${clock(start_s)}`, { type: "audio/wav" });
}

/** Convert corrections to a manifest for `audiocnn ingest`. */
export async function corrected(rows: { uri: string; start_s: number; label: string }[]): Promise<Blob> {
  const headers = { "content-type": "application/json" };
  const response = await ask("v1/labels/corrections", { method: "POST", headers, body: JSON.stringify({ rows }) });
  return await response.blob();
}
