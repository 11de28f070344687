"use client";

import { useEffect, useState } from "react";
import { type Card as Model, key, model, sample as fetchSample, setKey, Trouble } from "@/lib/api";
import { useAsked } from "@/lib/asked";
import { useView, type View } from "@/lib/view";
import { Bucket } from "./Bucket";
import { Panel } from "./Panel";
import { Problem } from "./Problem";
import { Sounds } from "./Sounds";
import { Button } from "./ui/button";

export function Dashboard() {
  const [view, change] = useView();
  const [other, setOther] = useState<View>({});
  const [card, setCard] = useState<Model | null>(null);
  const [trouble, setTrouble] = useState<Trouble | null>(null);
  const [turn, setTurn] = useState(0);

  const fail = (error: unknown) => setTrouble(Trouble.of(error));
  const again = () => {
    setTrouble(null);
    setTurn((before) => before + 1);
  };

  useEffect(() => {
    model().then(setCard, fail);
  }, [turn]);

  const bucket = view.bucket === "open" && card?.labels;
  const comparing = view.beside !== undefined && !bucket;
  const versus = view.versus !== undefined && !bucket && !comparing && card?.beside != null;
  return (
    <main className={`mx-auto grid gap-4 p-4 sm:p-6 ${comparing || versus || bucket ? "max-w-[120rem]" : "max-w-6xl"}`}>
      <header className="flex flex-wrap items-baseline justify-between gap-x-6 gap-y-1">
        <h1 className="text-xl font-semibold">Predictions and feature maps</h1>
        {card && (
          <p className="text-sm text-faint">
            {card.classes.length} classes, bundle {card.bundle}; <a className="underline" href="docs">API</a>
          </p>
        )}
      </header>
      {card?.labels && (
        <nav aria-label="Views" className="flex gap-2">
          <Button aria-pressed={!bucket} className={tab} onClick={() => change({ ...afresh, bucket: undefined })}>
            One sound
          </Button>
          <Button aria-pressed={bucket} className={tab} onClick={() => change({ ...afresh, bucket: "open" })}>
            Labelled bucket
          </Button>
        </nav>
      )}
      {trouble?.name === "key" && <Key onKey={again} />}
      {trouble && <Problem trouble={trouble} onAgain={again} />}
      {bucket ? (
        <Bucket model={card} view={view} onView={change} />
      ) : (
        <>
          <div className={`grid gap-4 ${comparing ? "lg:grid-cols-2" : ""}`}>
            <Side
              key={`first ${turn}`}
              card={card}
              versus={versus}
              view={view}
              onView={change}
              sample={view.sample}
              onSample={(name) => change({ sample: name })}
              onTrouble={fail}
            />
            {comparing && (
              <Side
                key={`second ${turn}`}
                card={card}
                view={other}
                onView={(some) => setOther((before) => ({ ...before, ...some }))}
                sample={view.beside || undefined}
                onSample={(name) => change({ beside: name ?? "" })}
                onTrouble={fail}
              />
            )}
          </div>
          <p className="flex flex-wrap justify-center gap-2">
            <Button onClick={() => change({ versus: undefined, beside: comparing ? undefined : "" })}>
              {comparing ? "Show one sound only" : "Compare with another sound"}
            </Button>
            {card?.beside && (
              <Button onClick={() => change({ beside: undefined, versus: versus ? undefined : "bundle" })}>
                {versus ? "Show one bundle only" : `Compare with bundle ${card.beside}`}
              </Button>
            )}
          </p>
        </>
      )}
    </main>
  );
}

const tab = "aria-pressed:border-accent aria-pressed:text-accent";
const afresh: View = { window: undefined, explain: undefined, channel: undefined };

/** The sources of a sound, and the panel of the chosen sound. */
function Side({
  card,
  versus = false,
  view,
  onView,
  sample,
  onSample,
  onTrouble,
}: {
  card: Model | null;
  /** Whether the second bundle's panel is shown beside the first one's. */
  versus?: boolean;
  view: View;
  onView: (change: View) => void;
  /** Name of the generated sound that is shown; undefined for a file. */
  sample: string | undefined;
  onSample: (name: string | undefined) => void;
  onTrouble: (error: unknown) => void;
}) {
  const [sound, setSound] = useState<File | null>(null);
  useEffect(() => {
    if (!sample) return;
    let wanted = true;
    fetchSample(sample).then((found) => wanted && setSound(found), onTrouble);
    return () => {
      wanted = false; // a file was chosen meanwhile
    };
    // `onTrouble` is a new function in each render. It is no reason to fetch again.
  }, [sample]);
  const other = useAsked(versus ? "other" : null, (signal) => model(true, signal));
  const [apart, setApart] = useState<View>({});
  useEffect(() => setApart({}), [sound]);
  // If both bundles cut a recording into the same windows, both panels show the same window.
  const alike = card !== null && other.found !== undefined && cut(card) === cut(other.found);
  return (
    <div className="grid min-w-0 content-start gap-4">
      <Sounds
        onFile={(file) => {
          onView(afresh);
          onSample(undefined);
          setSound(file);
        }}
        onSample={(name) => {
          onView(afresh);
          onSample(name);
        }}
      />
      {other.trouble && <Problem trouble={other.trouble} onAgain={other.again} />}
      {sound && card && (
        <div className={versus ? "grid gap-4 lg:grid-cols-2" : "contents"}>
          <Panel sound={sound} classes={card.classes} view={view} onView={onView} />
          {versus && other.found && (
            <Panel
              sound={sound}
              beside
              classes={other.found.classes}
              view={alike ? view : { ...view, window: apart.window }}
              onView={(change) => (alike || !("window" in change) ? onView(change) : setApart(change))}
            />
          )}
        </div>
      )}
    </div>
  );
}

function cut(card: Model): string {
  return `${card.feature["window_s"]} ${card.feature["hop_s"]}`;
}

function Key({ onKey }: { onKey: () => void }) {
  const [value, setValue] = useState(key());
  return (
    <form
      className="flex flex-wrap items-end gap-2"
      onSubmit={(event) => {
        event.preventDefault();
        setKey(value.trim());
        onKey();
      }}
    >
      <label className="grid gap-1 text-sm">
        API key
        <input
          type="password"
          autoComplete="off"
          value={value}
          onChange={(event) => setValue(event.target.value)}
          className="min-h-9 w-72 rounded-md border border-line bg-card px-3"
        />
      </label>
      <Button type="submit" look="main">
        Use this key
      </Button>
    </form>
  );
}
