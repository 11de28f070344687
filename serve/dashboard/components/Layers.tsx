import * as Collapsible from "@radix-ui/react-collapsible";
import { useMemo } from "react";
import type { PredictAnswer } from "@/lib/api";
import { colours, fitting } from "@/lib/colour";
import { grid } from "@/lib/grid";
import type { Player } from "@/lib/player";
import { Figure, type Span } from "./Figure";
import { Legend } from "./Legend";
import { Pixels } from "./Pixels";
import { Button } from "./ui/button";

/** The mean feature map of every layer, over the spectrogram's time axis. Each layer can show its blocks. */
export function Layers({
  maps,
  span,
  player,
  open,
  onOpen,
}: {
  maps: NonNullable<PredictAnswer["maps"]>;
  span: Span;
  player: Player;
  /** The map whose channels are shown. */
  open: string | undefined;
  onOpen: (layer: string) => void;
}) {
  const names = Object.keys(maps);
  const layers = names.filter((name) => !name.includes("."));
  return (
    <div className="grid gap-3">
      {layers.map((layer) => {
        const blocks = names.filter((name) => name.startsWith(`${layer}.`));
        const strip = (name: string, height: string) => (
          <Strip key={name} name={name} map={maps[name]} {...{ span, player, height, open, onOpen }} />
        );
        return (
          <Collapsible.Root key={layer} defaultOpen={open?.startsWith(`${layer}.`)}>
            {strip(layer, "h-20")}
            {blocks.length > 0 && (
              <Collapsible.Trigger asChild>
                <Button look="quiet" className="group ml-14">
                  <span aria-hidden className="transition-transform group-data-[state=open]:rotate-90">
                    ›
                  </span>
                  inside {layer}
                </Button>
              </Collapsible.Trigger>
            )}
            <Collapsible.Content className="grid gap-2 py-1">
              {blocks.map((name) => strip(name, "h-14"))}
            </Collapsible.Content>
          </Collapsible.Root>
        );
      })}
    </div>
  );
}

function Strip({
  name,
  map,
  span,
  player,
  height,
  open,
  onOpen,
}: {
  name: string;
  map: NonNullable<PredictAnswer["maps"]>[string] | undefined;
  span: Span;
  player: Player;
  height: string;
  open: string | undefined;
  onOpen: (layer: string) => void;
}) {
  const of = useMemo(() => (map ? grid(map) : null), [map]);
  const shades = useMemo(() => of && colours(fitting(of.min, of.max), of.min, of.max), [of]);
  if (!of || !shades) return null;
  return (
    <div data-map={name}>
      <div className="mb-1 ml-16 flex flex-wrap items-center gap-x-3 text-xs">
        <span className="font-medium">{name}</span>
        <span className="text-faint">
          mean of its channels, {of.rows} × {of.columns}
        </span>
        <button
          type="button"
          aria-pressed={open === name}
          onClick={() => onOpen(name)}
          className="cursor-pointer rounded px-1 text-accent underline underline-offset-2"
        >
          channels
        </button>
      </div>
      <Figure
        span={span}
        player={player}
        className={height}
        label={`Feature map of ${name}: mean of its channels, ${of.rows} by ${of.columns}`}
        right={<Legend colours={shades} min={of.min} max={of.max} />}
      >
        <Pixels of={of} colours={shades} className="h-full w-full" />
      </Figure>
    </div>
  );
}
