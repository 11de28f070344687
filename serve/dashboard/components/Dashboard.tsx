"use client";

import { useEffect, useState } from "react";
import { type Card as Model, key, model, sample, setKey, Trouble } from "@/lib/api";
import { useView } from "@/lib/view";
import { Panel } from "./Panel";
import { Problem } from "./Problem";
import { Sounds } from "./Sounds";
import { Button } from "./ui/button";

export function Dashboard() {
  const [view, change] = useView();
  const [sound, setSound] = useState<File | null>(null);
  const [card, setCard] = useState<Model | null>(null);
  const [trouble, setTrouble] = useState<Trouble | null>(null);
  const [turn, setTurn] = useState(0);

  const fail = (error: unknown) =>
    setTrouble(error instanceof Trouble ? error : new Trouble("page", `This page failed: ${String(error)}`));
  const again = () => {
    setTrouble(null);
    setTurn((before) => before + 1);
  };

  useEffect(() => {
    model().then(setCard, fail);
  }, [turn]);

  useEffect(() => {
    if (view.sample) sample(view.sample).then(setSound, fail);
  }, [view.sample, turn]);

  const afresh = { window: undefined, explain: undefined, channel: undefined };
  return (
    <main className="mx-auto grid max-w-6xl gap-4 p-4 sm:p-6">
      <header className="flex flex-wrap items-baseline justify-between gap-x-6 gap-y-1">
        <h1 className="text-xl font-semibold">What the model heard</h1>
        {card && (
          <p className="text-sm text-faint">
            {card.classes.length} classes, bundle {card.bundle}; <a className="underline" href="docs">the endpoint</a>
          </p>
        )}
      </header>
      {trouble?.name === "key" && <Key onKey={again} />}
      {trouble && <Problem trouble={trouble} onAgain={again} />}
      <Sounds
        key={turn}
        onFile={(file) => {
          change({ ...afresh, sample: undefined });
          setSound(file);
        }}
        onSample={(name) => change({ ...afresh, sample: name })}
      />
      {sound && card && <Panel sound={sound} classes={card.classes} view={view} onView={change} />}
    </main>
  );
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
        Use it
      </Button>
    </form>
  );
}
