import { useEffect, useMemo, useRef, useState } from "react";
import {
  type Card as Model, corrected, labelledSound, labelledWindows, type LabelledWindow, labels, type LabelsCard,
  Trouble,
} from "@/lib/api";
import { useAsked, useKept } from "@/lib/asked";
import { place, useCorrections } from "@/lib/corrections";
import type { View } from "@/lib/view";
import { Histogram } from "./Histogram";
import { Panel } from "./Panel";
import { Problem } from "./Problem";
import { Button } from "./ui/button";
import { Card } from "./ui/card";
import { Select } from "./ui/select";
import { Windows } from "./Windows";

const PAGE = 25;
const orders = { highest: "highest score first", lowest: "lowest score first", name: "by recording and time" };

/** A labelled bucket: its windows by class, score and name. Each can be played, inspected and corrected. */
export function Bucket({ model, view, onView }: { model: Model; view: View; onView: (change: View) => void }) {
  const [turn, setTurn] = useState(0);
  const asked = useAsked(`labels ${turn}`, labels);
  const card = useKept(asked.found);
  const reading = card !== undefined && (!card.listed || card.parts_read < card.parts);
  useEffect(() => {
    if (!reading) return;
    const timer = setTimeout(() => setTurn((before) => before + 1), 2_000);
    return () => clearTimeout(timer);
  }, [reading, turn]);
  const { uri, start } = view;
  const sound = useAsked(uri === undefined || start === undefined ? null : `${start} ${uri}`, (signal) =>
    labelledSound(uri ?? "", start ?? 0, signal),
  );
  const beside = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const top = beside.current?.getBoundingClientRect().top ?? 0;
    // On a narrow page, the panel is below the list.
    if (sound.found && top > innerHeight / 2) beside.current?.scrollIntoView();
  }, [sound.found]);
  return (
    <div className="grid gap-4 xl:grid-cols-2">
      <div className="min-w-0">
        {asked.trouble && <Problem trouble={asked.trouble} onAgain={asked.again} />}
        {card && <Table card={card} model={model} view={view} onView={onView} />}
      </div>
      <div
        ref={beside}
        className="min-h-screen min-w-0 scroll-mt-4 xl:sticky xl:top-4 xl:max-h-[calc(100vh-2rem)] xl:self-start xl:overflow-y-auto"
      >
        {sound.trouble && <Problem trouble={sound.trouble} onAgain={sound.again} />}
        {sound.found ? (
          <Panel sound={sound.found} classes={model.classes} view={view} onView={onView} />
        ) : (
          <p role="status" className="p-6 text-center text-faint">
            {sound.waiting ? "Fetching the sound …" : "Press Inspect next to a window to see its prediction and feature maps here."}
          </p>
        )}
      </div>
    </div>
  );
}

function Table({
  card,
  model,
  view,
  onView,
}: {
  card: LabelsCard;
  model: Model;
  view: View;
  onView: (change: View) => void;
}) {
  const page = view.page ?? 0;
  const query = {
    label: view.label, name: view.name ?? "", lowest: view.lowest ?? 0, highest: view.highest ?? 1,
    sort: view.order ?? "highest", offset: page * PAGE, limit: PAGE,
  } as const;
  // All pages show the labels that the first page showed, even if there are more labels by now.
  const revision = useRef<string | undefined>(undefined);
  const asked = useAsked(`${card.parts_read} ${JSON.stringify(query)}`, async (signal) => {
    const same = { ...query, revision: page > 0 ? revision.current : undefined };
    const found = await labelledWindows(same, signal).catch((error: unknown) => {
      if (Trouble.of(error).name !== "option") throw error;
      return labelledWindows(query, signal);
    });
    revision.current = found.revision;
    return { ...found, first: query.offset + 1 };
  });
  const found = useKept(asked.found);
  const corrections = useCorrections(card.bundle, card.bucket);
  const names = useMemo(
    () => [...new Set([...model.classes, ...card.classes.map((one) => one.class)])].sort(),
    [model.classes, card.classes],
  );
  const last = Math.max(0, Math.ceil((found?.total ?? 0) / PAGE) - 1);
  const shown = found?.rows ?? [];
  const look = (row: LabelledWindow) =>
    onView({ uri: row.uri, start: row.start_s, window: undefined, explain: undefined, channel: undefined });
  return (
    <Card title="Labelled bucket" aside={<span className="text-sm break-all text-faint">{card.bucket}</span>}>
      <Facts card={card} model={model} />
      <Filters card={card} view={view} onView={(change) => onView({ page: undefined, ...change })} />
      {asked.trouble && <Problem trouble={asked.trouble} onAgain={asked.again} />}
      {found && (
        <>
          <Histogram
            counts={found.histogram}
            lowest={query.lowest}
            highest={query.highest}
            onRange={(lowest, highest) => onView({ page: undefined, lowest, highest })}
          />
          <Windows
            rows={shown}
            names={names}
            corrections={corrections.all}
            onCorrect={corrections.correct}
            looked={view.uri === undefined ? undefined : place({ uri: view.uri, start_s: view.start ?? 0 })}
            onLook={look}
          />
          <div className="mt-3 flex flex-wrap items-center gap-3 text-sm">
            <Button disabled={page === 0} onClick={() => onView({ page: page - 1 || undefined })}>
              Previous
            </Button>
            <Button disabled={page >= last} onClick={() => onView({ page: page + 1 })}>
              Next
            </Button>
            <span role="status" className="text-faint tabular-nums">
              {shown.length
                ? `${found.first} to ${found.first - 1 + shown.length} of ${found.total} windows`
                : "No windows match."}
            </span>
          </div>
        </>
      )}
      <Download all={Object.values(corrections.all)} onForget={corrections.forget} />
    </Card>
  );
}

function Facts({ card, model }: { card: LabelsCard; model: Model }) {
  const warnings = [
    !card.listed && "Reading the labels.",
    card.parts_read < card.parts && `Reading the labels: ${card.parts_read} of ${card.parts} parts are read.`,
    card.listed && !card.finished && "The job that writes these labels has not ended.",
    card.bundle !== model.bundle &&
      `Bundle ${card.bundle} made these labels, but bundle ${model.bundle} answers now. Its answers may differ.`,
    card.trouble && `The labels shown here are not up to date: ${card.trouble}`,
  ].filter(Boolean);
  return (
    <div className="mb-4 text-sm text-faint">
      <p>
        {card.windows} windows of {card.recordings} recordings, labelled by bundle {card.bundle}
        {card.failed > 0 && `; ${card.failed} recordings failed`}
      </p>
      {warnings.map((warning) => (
        <p key={String(warning)} className="text-bad">
          {warning}
        </p>
      ))}
    </div>
  );
}

function Filters({ card, view, onView }: { card: LabelsCard; view: View; onView: (change: View) => void }) {
  const all = `all ${card.classes.length} classes`;
  const texts = new Map(card.classes.map((one) => [`${one.class} (${one.windows})`, one.class]));
  const chosen = [...texts].find(([, name]) => name === view.label)?.[0] ?? all;
  const [name, setName] = useState(view.name ?? "");
  useEffect(() => setName(view.name ?? ""), [view.name]);
  return (
    <div className="mb-4 flex flex-wrap items-center gap-3">
      <Select
        label="Class"
        value={chosen}
        options={[all, ...texts.keys()]}
        onChange={(text) => onView({ label: texts.get(text) })}
      />
      <Select
        label="Order of windows"
        value={orders[view.order ?? "highest"]}
        options={Object.values(orders)}
        onChange={(text) =>
          onView({ order: text === orders.lowest ? "lowest" : text === orders.name ? "name" : undefined })
        }
      />
      <form
        className="flex gap-2"
        onSubmit={(event) => {
          event.preventDefault();
          onView({ name: name || undefined });
        }}
      >
        <input
          type="search"
          aria-label="Part of the recording's name"
          placeholder="part of a name"
          value={name}
          onChange={(event) => {
            setName(event.target.value);
            if (!event.target.value) onView({ name: undefined }); // the field's own cross
          }}
          className="min-h-9 w-44 rounded-md border border-line bg-card px-3 text-sm"
        />
        <Button type="submit">Find</Button>
      </form>
    </div>
  );
}

function Download({
  all,
  onForget,
}: {
  all: { uri: string; start_s: number; label: string }[];
  onForget: () => void;
}) {
  const [wanted, setWanted] = useState<string | null>(null);
  const file = useAsked(wanted, () => corrected(all));
  useEffect(() => {
    if (!file.found) return;
    const url = URL.createObjectURL(file.found);
    const link = Object.assign(document.createElement("a"), { href: url, download: "corrections.csv" });
    link.click();
    setWanted(null);
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }, [file.found]);
  if (all.length === 0) {
    return (
      <p className="mt-4 text-sm text-faint">
        Mark windows as right, or as wrong with the right class. You can download these corrections as a manifest for
        training.
      </p>
    );
  }
  const open = all.filter((one) => !one.label.trim()).length;
  return (
    <div className="mt-4 border-t border-line pt-4 text-sm">
      <p className="mb-2">
        {all.length} checked{open > 0 && `, ${open} of them wrong without a class (not used for training)`}. After the
        download:{" "}
        <code className="break-all">audiocnn ingest corrections.csv --to corrections --folds 2</code>
      </p>
      <div className="flex flex-wrap gap-2">
        <Button look="main" disabled={file.waiting} onClick={() => setWanted(`${Date.now()}`)}>
          Download corrections.csv
        </Button>
        <Button
          onClick={() => {
            if (confirm(`Delete the corrections of ${all.length} windows?`)) onForget();
          }}
        >
          Delete corrections
        </Button>
      </div>
      {file.trouble && <Problem trouble={file.trouble} onAgain={file.again} />}
    </div>
  );
}
