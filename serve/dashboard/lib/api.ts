import type { components, operations } from "./schema";

export type Answer = components["schemas"]["Answer"];
export type Card = components["schemas"]["Card"];
export type Window = components["schemas"]["Window"];
export type Options = NonNullable<operations["_predict_v1_predict_post"]["parameters"]["query"]>;

/** What went wrong, and what a person can do about it. */
export class Trouble extends Error {
  constructor(
    readonly name: string,
    readonly sentence: string,
    readonly detail = "",
  ) {
    super(sentence);
  }
}

const sentences: Record<string, string> = {
  empty: "There is no sound in this file. Choose another one.",
  key: "This server wants an API key. Enter it above.",
  origin: "This server does not answer pages from here. Open it by the address that it listens on.",
  "slow-upload": "The upload took too long. Try again, or send a shorter or compressed recording.",
  "too-large": "The file is larger than this server takes. Send a shorter or compressed recording.",
  "too-long": "The recording is longer than this server takes. Cut it, or label it with `audiocnn label`.",
  "not-audio": "This is no audio that is read here. Send WAV, FLAC, OGG or MP3.",
  audio: "The recording cannot be used: it is damaged, cut short or outside the limits.",
  rate: "That was more requests than this key may make. Wait a moment, and try again.",
  busy: "The server is busy. Wait a second, and try again.",
  "not-ready": "The model is not ready. Wait a moment, and try again.",
  "slow-answer": "The answer took too long. Try again, or send a shorter recording.",
  gone: "The server cannot be reached. Check that it still runs, and try again.",
};

const stored = "audiocnn.key";

export function key(): string {
  return sessionStorage.getItem(stored) ?? "";
}

/** Keep an API key for as long as the tab is open. */
export function setKey(value: string): void {
  sessionStorage.setItem(stored, value);
}

async function ask(path: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers: key() ? { "x-api-key": key() } : {} });
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

export async function model(): Promise<Card> {
  return (await (await ask("v1/model", {})).json()) as Card;
}

/** What the server says of a recording. */
export async function predict(sound: Blob, options: Options, signal: AbortSignal): Promise<Answer> {
  const query = new URLSearchParams(
    Object.entries(options).flatMap(([name, value]) => (value == null ? [] : [[name, String(value)]])),
  );
  const body = sound.type ? sound : new Blob([sound], { type: "application/octet-stream" });
  const response = await ask(`v1/predict?${query}`, { method: "POST", body, signal });
  return (await response.json()) as Answer;
}

export async function samples(): Promise<string[]> {
  return (await (await ask("samples", {})).json()) as string[];
}

export async function sample(name: string): Promise<File> {
  const response = await ask(`samples/${encodeURIComponent(name)}.flac`, {});
  return new File([await response.blob()], `${name}.flac`, { type: "audio/flac" });
}
